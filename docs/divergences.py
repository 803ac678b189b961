"""Writes docs/divergences.md and docs/divergences.png from the table of divergences.

python docs/divergences.py
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from kdjax.losses import DIVERGENCES, divergence

DIRECTORY = pathlib.Path(__file__).parent
TEACHER = 0.7  # the teacher's probability of the first of two ids, the label

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
    return "\n".join(parts)


def picture() -> Figure:
    """Returns small multiples of value and gradient over the student's probability."""
    student = np.linspace(0.01, 0.99, 197, dtype=np.float32)
    logits = jnp.stack([jnp.log(student), jnp.log(1 - student)], -1)
    teacher = jnp.broadcast_to(jnp.log(jnp.array([TEACHER, 1 - TEACHER])), logits.shape)
    labels = jnp.zeros(student.size, jnp.int32)
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots(3, 4, sharex=True)
    for plot, (kind, row) in zip(axes.flat, DIVERGENCES.items(), strict=True):

        def value(x: jax.Array, kind: str = kind) -> jax.Array:
            return divergence(x, teacher, kind=kind, labels=labels)

        gradient = jax.grad(lambda x, f=value: f(x).sum())(logits)[:, 0]
        plot.axhline(0.0, color="0.8", linewidth=0.8)
        plot.axvline(TEACHER, color="0.6", linewidth=0.8, linestyle=":")
        plot.plot(student, value(logits), color="C0", label="value")
        plot.plot(student, gradient, color="C1", linestyle="--", label="gradient")
        plot.set_ylim(-1.1, 2.1)
        values = ", ".join(f"{k} = {p.default:g}" for k, p in row.parameters.items())
        plot.set_title(f"{kind}\n{values}" if values else kind, fontsize=9)
    for plot in axes[-1]:
        plot.set_xlabel("student's probability")
    axes.flat[0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    (DIRECTORY / "divergences.md").write_text(page())
    picture().savefig(DIRECTORY / "divergences.png", dpi=110)
