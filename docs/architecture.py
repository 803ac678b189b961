"""Draws docs/architecture.png: the rooms of kdjax, and which imports which.

python docs/architecture.py
"""

import ast
import io
import json
import pathlib
import runpy
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

DIRECTORY = pathlib.Path(__file__).parent
ROOT = DIRECTORY.parent
LAYERS = runpy.run_path(str(ROOT / "tests" / "test_layers.py"))  # the rooms' order
ROW, COLUMN, GAP = 0.42, 0.24, 0.14  # inches
BOX, NAME, BOTTOM = 4.35, 1.25, 0.2  # inches; NAME is what names take of a box
LETTERS = 44  # in a line of text
BLUES = colormaps["Blues"]
INK, FAINT, GUIDE, DOT, DOOR = "#1f2933", "#5f6c7b", "#dfe5ec", "#2563a8", "#f6e7c8"
LEGEND = "A dot: the room on its left imports\nthe one below it. Imports only go down."


class Room(NamedTuple):
    """A room, or a door.

    Attributes:
        purpose: The first line of its docstring.
        uses: The rooms that it imports, from low to high.
    """

    purpose: str
    uses: tuple[str, ...]


def rooms() -> dict[str, Room]:
    """Returns all rooms and then all doors by name, from low to high."""
    graph, unit = LAYERS["GRAPH"], LAYERS["unit"]
    found = {}
    for name in (*LAYERS["ROOMS"], *LAYERS["DOORS"]):
        used = {
            unit(imported)
            for module, imports in graph.items()
            if unit(module) == name
            for imported in imports
            if imported.startswith("kdjax.")
        }
        uses = tuple(room for room in LAYERS["ROOMS"] if room in used - {name})
        found[name] = Room(_purpose(name), uses)
    return found


def _purpose(name: str) -> str:
    package = ROOT / "kdjax" / name
    path = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.split("\n")[0]


def picture(shown: Mapping[str, Room]) -> bytes:
    """Returns a PNG, which carries `description` of what it shows."""
    names = [*LAYERS["ROOMS"], *reversed(LAYERS["DOORS"])]  # the main door on top
    first = len(LAYERS["ROOMS"])  # of the doors
    heights = {
        name: BOTTOM + ROW * (row + 0.5) + GAP * (row >= first)
        for row, name in enumerate(names)
    }
    columns = {
        name: BOX + 0.45 + COLUMN * column
        for column, name in enumerate(LAYERS["ROOMS"])
    }
    width, height = max(columns.values()) + 0.9, max(heights.values()) + ROW / 2 + 0.2
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    top, end = max(heights.values()), max(columns.values())
    for name, y in heights.items():
        _draw_box(axes, name, shown[name].purpose, y, is_door=name not in columns)
        x = columns.get(name, end)
        axes.plot([0.12 + BOX, x], [y, y], color=GUIDE, linewidth=0.9, zorder=0)
        for used in shown[name].uses:
            axes.plot(columns[used], y, "o", color=DOT, markersize=6.5)
    for name, x in columns.items():
        y = heights[name]
        axes.plot([x, x], [y, top], color=GUIDE, linewidth=0.9, zorder=0)
        axes.plot(x, y, "s", color=INK, markersize=6.5)
        axes.text(x + 0.12, y, name, fontsize=9, color=INK, va="center_baseline")
    axes.text(width - 0.2, BOTTOM + 0.08, LEGEND, fontsize=9, color=FAINT, ha="right")
    file = io.BytesIO()
    figure.savefig(file, dpi=150, metadata={"Description": description(shown)})
    return file.getvalue()


def _draw_box(axes: Axes, name: str, purpose: str, y: float, *, is_door: bool) -> None:
    """Draws a box with name and purpose, its middle at height `y`."""
    axes.add_patch(
        FancyBboxPatch(
            (0.12, y - 0.43 * ROW),
            BOX,
            0.86 * ROW,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=DOOR if is_door else BLUES(0.06 + 0.022 * y),
            edgecolor="none",
        )
    )
    style: Any = {"color": INK, "va": "center_baseline"}
    axes.text(0.24, y, name, fontsize=10.5, fontweight="bold", **style)
    text = _wrapped(purpose.replace("`", ""))
    axes.text(0.12 + NAME, y, text, fontsize=9, color=INK, va="center", linespacing=1.1)


def _wrapped(text: str) -> str:
    """Returns the text in as few lines as it needs, all of about the same length."""

    def lines(width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)

    needed = len(lines(LETTERS))
    width = next(w for w in range(1, LETTERS + 1) if len(lines(w)) == needed)
    return "\n".join(lines(width))


def description(shown: Mapping[str, Room]) -> str:
    """Returns all that is drawn, so that a picture can be told from an old one."""
    return json.dumps({name: room._asdict() for name, room in shown.items()})


def main() -> None:
    """Draws the picture."""
    (DIRECTORY / "architecture.png").write_bytes(picture(rooms()))


if __name__ == "__main__":
    main()
