"""Writes docs/divergences.md and docs/divergences.png from the table of divergences.

python docs/divergences.py
"""

import io
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kdjax.losses import DIVERGENCES, divergence

DIRECTORY = pathlib.Path(__file__).parent
COLUMNS = 4  # of the picture
STRIDE = 28  # of the numbers that the picture's file keeps as text, one in so many
TEACHER = 0.7  # the teacher's probability of the first of two ids, the label
STUDENT = np.linspace(0.01, 0.99, 197, dtype=np.float32)  # the student's

INTRODUCTION = f"""\
# Divergences

Written by `python docs/divergences.py` from `kdjax.losses.DIVERGENCES`: change it
there.

p is the teacher's distribution, q the student's, both softened by the same
temperature; there is one value per token, for what KL is made of in nats. The loss is

    alpha * temperature^2 * divergence + (1 - alpha) * cross-entropy

Choose one with `--config.distill.kind=NAME`, and its parameters with
`--config.distill.PARAMETER`.

![Every divergence and its gradient for two ids](divergences.png)

Two ids, the teacher's p = ({TEACHER}, {1 - TEACHER:.1f}), the label the first.
Solid: the value; dashed: its gradient by the student's logit of the first id. All
are zero, and all but `total_variation` flat, where the student agrees with the
teacher; they differ in how hard they pull far away from it, and to which side.
`taid` at t = 0.5 leads to a point between student and teacher.
"""


OWN = """\
## Your own

A config file may add to the table. This one is a whole experiment,
`python -m kdjax.main --config=mine.py`:

```python
import jax.numpy as jnp

from kdjax.config import default
from kdjax.losses import DIVERGENCES, Divergence


def triangular(p, q, over):
    gap, both = p.probs - q.probs, p.probs + q.probs
    return over.sum(gap * gap / jnp.where(both == 0.0, 1.0, both))


DIVERGENCES["triangular"] = Divergence(
    triangular, "sum_v (p_v - q_v)^2 / (p_v + q_v)", "in [0, 2]", "none"
)


def get_config():
    config = default()
    config.distill.kind = "triangular"
    return config
```

`p` and `q` have `probs` and `logs`, [.., V]; `over.sum` and `over.max` reduce over
the ids, which may be sharded. Ids of padding have probability zero on both sides: keep
their terms zero. Parameters are keyword arguments that bear the names of keys of
`config.distill` (`beta`, `a`, ...) and stand in the entry as
`{"beta": Parameter(default, low, high)}`.
"""


def page() -> str:
    """Returns the page's text."""
    parts = [INTRODUCTION]
    for name, row in DIVERGENCES.items():
        lines = [f"## {name}", "", f"    {row.formula}", "", f"- {row.limits}"]
        lines += [
            f"- `{key}` in [{p.low:g}, {p.high:g}], default {p.default:g}"
            for key, p in row.parameters.items()
        ]
        lines.append(f"- {row.paper}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join([*parts, OWN])


class Curve(NamedTuple):
    """What the picture shows of a divergence, over `STUDENT`."""

    title: str
    value: NDArray[np.float32]
    gradient: NDArray[np.float32]


def curves() -> list[Curve]:
    """Returns all that the picture shows, in the order of the table."""
    logits = jnp.stack([jnp.log(STUDENT), jnp.log(1 - STUDENT)], -1)
    teacher = jnp.broadcast_to(jnp.log(jnp.array([TEACHER, 1 - TEACHER])), logits.shape)
    labels = jnp.zeros(STUDENT.size, jnp.int32)
    found = []
    for kind, row in DIVERGENCES.items():

        def value(x: jax.Array, kind: str = kind) -> jax.Array:
            return divergence(x, teacher, kind=kind, labels=labels)

        gradient = jax.grad(lambda x, f=value: f(x).sum())(logits)[:, 0]
        values = ", ".join(f"{k} = {p.default:g}" for k, p in row.parameters.items())
        title = f"{kind}\n{values}" if values else kind
        found.append(Curve(title, np.asarray(value(logits)), np.asarray(gradient)))
    return found


def picture(shown: Sequence[Curve]) -> bytes:
    """Returns a PNG of small multiples, which carries `description` of them."""
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(10, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, sharex=True, squeeze=False)
    for plot, curve in zip(axes.flat, shown, strict=False):
        plot.axhline(0.0, color="0.8", linewidth=0.8)
        plot.axvline(TEACHER, color="0.6", linewidth=0.8, linestyle=":")
        plot.plot(STUDENT, curve.value, color="C0", label="value")
        plot.plot(STUDENT, curve.gradient, color="C1", linestyle="--", label="gradient")
        plot.set_ylim(-1.1, 2.1)
        plot.set_title(curve.title, fontsize=9)
    for plot in axes.flat[len(shown) :]:
        plot.set_visible(False)
    for plot in axes.flat[: len(shown)][-COLUMNS:]:  # the lowest of every column
        plot.set_xlabel("student's probability")
        plot.tick_params(labelbottom=True)
    axes.flat[0].legend(fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, metadata={"Description": description(shown)})
    return file.getvalue()


def description(shown: Sequence[Curve]) -> str:
    """Returns some of the numbers, so that a picture can be told from an old one."""
    some = {
        curve.title: [
            [round(float(x), 2) for x in line[::STRIDE]]
            for line in (curve.value, curve.gradient)
        ]
        for curve in shown
    }
    return json.dumps(some)


def main() -> None:
    """Writes both, once both are known."""
    written = {"divergences.md": page().encode(), "divergences.png": picture(curves())}
    for name, content in written.items():
        (DIRECTORY / name).write_bytes(content)


if __name__ == "__main__":
    main()
