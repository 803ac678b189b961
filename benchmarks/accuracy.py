"""How far the fused loss is from float64: every kind, temperature, scale and dtype.

The loss is the even mixture of soft and hard parts. Errors are relative; a gradient's
is the norm of the difference over the norm. The inputs are rounded to the dtype before
the oracle sees them, so that only the arithmetic is judged.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, oracle
from kdjax import losses

TEMPERATURES = (0.5, 1.0, 2.0, 8.0)
SCALES = (1.0, 8.0, 30.0)  # standard deviations of the logits
CHUNKS = (1, 16, 256)
GOALS = {"float32": (1e-6, 1e-5), "bfloat16": (5e-3, 5e-3)}  # loss, gradients
TOKENS, STUDENT_WIDTH, TEACHER_WIDTH, VOCABULARY = 256, 64, 96, 4096
ALPHA = 0.5
# In addition to every kind's defaults: range endpoints and the papers' values.
ALSO: dict[str, tuple[dict[str, float], ...]] = {
    "jsd": ({"beta": 0.0}, {"beta": 0.1}, {"beta": 1.0}),
    "taid": ({"t": 0.0}, {"t": 1.0}),
    "alpha_beta": ({"a": 0.2, "b": 0.7},),
    "decoupled_kd": ({"a": 1.0, "b": 8.0},),
}


class Cell(NamedTuple):
    """Errors of one computation."""

    loss: float
    hidden: float
    head: float
    soft: float  # largest error of a token's divergence, in nats


def measure() -> dict[str, Any]:
    """Prints a row per kind and dtype; returns the worst errors over all settings."""
    rows: list[dict[str, Any]] = []
    for kind, parameters in _kinds():
        for dtype in GOALS:
            rows += _errors(kind, parameters, dtype)
    common.table(
        f"Relative errors (soft: nats), worst over temperatures {TEMPERATURES} and "
        f"logit scales {SCALES}; limit: what float32 logits alone do to the gradients",
        tuple(rows[0]),
        [list(row.values()) for row in rows],
    )
    missed = sum("MISSED" in row["goals"] for row in rows)
    print(f"{len(rows) - missed} of {len(rows)} rows meet their goals")
    shape = {
        "tokens": TOKENS,
        "student_width": STUDENT_WIDTH,
        "teacher_width": TEACHER_WIDTH,
        "vocabulary": VOCABULARY,
    }
    return {"shape": shape, "goals": GOALS, "rows": rows, "missed": missed}


def _kinds() -> Iterator[tuple[str, dict[str, float]]]:
    for kind, row in losses.DIVERGENCES.items():
        defaults = {name: value.default for name, value in row.parameters.items()}
        yield kind, defaults
        for other in ALSO.get(kind, ()):
            yield kind, defaults | other


def _errors(
    kind: str, parameters: dict[str, float], dtype: str
) -> list[dict[str, Any]]:
    options: Any
    functions = {chunks: _fused(kind, parameters, chunks) for chunks in CHUNKS}
    cells: dict[int, list[Cell]] = {chunks: [] for chunks in CHUNKS}
    limits = []
    for scale in SCALES:
        arrays = _inputs(scale, dtype)
        exact = oracle.Inputs(*(np.asarray(each, np.float64) for each in arrays[:4]))
        labels = np.asarray(arrays[4])
        for temperature in TEMPERATURES:
            options = {
                "kind": kind,
                "temperature": temperature,
                "parameters": parameters,
            }
            kept = np.asarray(arrays[5], np.float64)
            kept = kept * oracle.smooth(exact, **options)
            options |= {"alpha": ALPHA, "labels": labels, "weights": kept}
            truth = oracle.distillation(exact, **options)
            rounded = oracle.distillation(exact, logits=np.float32, **options)
            limits.append(_compare(rounded, truth, kept))
            scalars = jnp.asarray(kept, jnp.float32), jnp.float32(temperature)
            for chunks, function in functions.items():
                (loss, soft), gradients = jax.device_get(
                    function(*arrays[:5], *scalars)
                )
                found = oracle.Result(loss, soft, *gradients)
                cells[chunks].append(_compare(found, truth, kept))
    limit = _worst(limits)
    name = kind + "".join(f" {k}={v:g}" for k, v in parameters.items())
    rows = []
    for chunks in CHUNKS:
        worst = _worst(cells[chunks])
        goals = zip(
            ("loss", "gradients"),
            (worst.loss, max(worst.hidden, worst.head)),
            GOALS[dtype],
            strict=True,
        )
        rows.append(
            {"kind": name, "dtype": dtype, "chunks": chunks}
            | {field: f"{error:.1e}" for field, error in worst._asdict().items()}
            | {"limit": f"{max(limit.hidden, limit.head):.1e}"}
            | {"goals": ", ".join(f"{n} {common.verdict(e, g)}" for n, e, g in goals)}
        )
    return rows


def _fused(kind: str, parameters: Any, chunks: int) -> Any:
    def loss(
        hs: Any, ws: Any, ht: Any, wt: Any, labels: Any, weights: Any, temperature: Any
    ) -> Any:
        total, parts = losses.linear_distillation(
            hs,
            losses.Head(ws),
            ht,
            losses.Head(wt),
            labels,
            weights,
            alpha=ALPHA,
            temperature=temperature,
            kind=kind,
            chunk_size=TOKENS // chunks,
            **parameters,
        )
        return total, parts.soft

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def highest(*arguments: Any) -> Any:
        # By default, accelerators round float32 inputs before multiplying.
        with jax.default_matmul_precision("highest"):
            return compiled(*arguments)

    return highest


def _inputs(scale: float, dtype: str) -> tuple[Any, ...]:
    """Returns inputs whose logits have the scale; student and teacher half agree."""
    generator = np.random.default_rng(int(scale))
    student, kernel = (
        generator.standard_normal(shape)
        for shape in ((TOKENS, STUDENT_WIDTH), (STUDENT_WIDTH, VOCABULARY))
    )
    extra = TEACHER_WIDTH - STUDENT_WIDTH
    teacher = np.hstack([student, generator.standard_normal((TOKENS, extra))])
    own = generator.standard_normal((extra, VOCABULARY))
    own *= np.sqrt(STUDENT_WIDTH / extra)
    factor = scale / np.sqrt(STUDENT_WIDTH)
    return (
        jnp.asarray(student, dtype),
        jnp.asarray(kernel * factor, dtype),
        jnp.asarray(teacher, dtype),
        jnp.asarray(np.vstack([kernel, own]) * factor * np.sqrt(0.5), dtype),
        jnp.asarray(generator.integers(0, VOCABULARY, TOKENS), jnp.int32),
        jnp.asarray(generator.random(TOKENS) < 0.8, jnp.float32),
    )


def _compare(found: oracle.Result, truth: oracle.Result, weights: Any) -> Cell:
    def distance(a: Any, b: Any) -> float:
        return float(np.linalg.norm(np.float64(a) - b) / np.linalg.norm(b))

    soft = np.abs(np.float64(found.soft) - truth.soft)
    return Cell(
        abs(float(found.loss) - truth.loss) / abs(truth.loss),
        distance(found.hidden, truth.hidden),
        distance(found.kernel, truth.kernel),
        float(soft[weights > 0].max()),
    )


def _worst(cells: list[Cell]) -> Cell:
    """Returns the largest of each error; a NaN counts as infinite."""
    return Cell(*np.nan_to_num(np.asarray(cells), nan=np.inf).max(0).tolist())
