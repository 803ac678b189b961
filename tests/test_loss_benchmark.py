"""What the benchmarks of the loss judge by is right itself."""

import jax
import numpy as np
import oracles
import pytest

from benchmarks import common, hlo, oracle, targets
from kdjax.losses import DIVERGENCES

# Where the defaults would hide a term.
PARAMETERS = {
    "jsd": {"beta": 0.3},
    "skew_forward_kl": {"skew": 0.2},
    "skew_reverse_kl": {"skew": 0.2},
    "alpha_beta": {"a": 0.2, "b": 0.7},
    "decoupled_kd": {"a": 1.0, "b": 3.0},
}
HELD = {"adaptive_kl", "taid"}  # whose gradient passes by what depends on the student


def parameters_of(kind):
    taken = DIVERGENCES[kind].parameters
    return {name: p.default for name, p in taken.items()} | PARAMETERS.get(kind, {})


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_two_oracles_that_share_no_line_agree(kind):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 31))
    labels, parameters = rng.integers(0, 31, 5, np.int32), parameters_of(kind)
    found, _ = oracle.divergence(student, teacher, labels, kind, parameters)
    wanted = oracles.oracle(student, teacher, kind, labels=labels, **parameters)
    np.testing.assert_allclose(found, wanted, rtol=1e-11)


@pytest.mark.parametrize("kind", [kind for kind in DIVERGENCES if kind not in HELD])
def test_the_oracle_that_judges_accuracy_differentiates_correctly(kind):
    rng = np.random.default_rng(0)
    shapes = (4, 3), (3, 7), (4, 5), (5, 7)
    inputs = oracle.Inputs(*(rng.standard_normal(shape) for shape in shapes))
    options = {
        "kind": kind,
        "parameters": parameters_of(kind),
        "labels": rng.integers(0, 7, 4, np.int32),
        "weights": rng.random(4),
        "alpha": 0.7,
        "temperature": 1.7,
    }
    result = oracle.distillation(inputs, **options)
    for field, gradient in (
        ("student_hidden", result.hidden),
        ("student_kernel", result.kernel),
    ):
        direction = rng.standard_normal(gradient.shape)
        losses = []
        for sign in (1, -1):
            moved = getattr(inputs, field) + sign * 1e-6 * direction
            moved = inputs._replace(**{field: moved})
            losses.append(oracle.distillation(moved, **options).loss)
        slope = (losses[0] - losses[1]) / 2e-6
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-7)


def test_cycles_of_a_loop_count_once_per_chunk():
    text = """
%inner (x: f32[]) -> f32[] {
  %a = f32[] fusion(%x), backend_config={"estimated_cycles":"2"}
}
%body (x: f32[]) -> f32[] {
  %i = f32[] while(%x), condition=%condition, body=%inner
  %a = f32[] fusion(%i), backend_config={"estimated_cycles":"30"}
}
ENTRY %main (x: f32[]) -> f32[] {
  %w = f32[] while(%x), condition=%condition, body=%body
  %b = f32[] fusion(%w), backend_config={"estimated_cycles":"5"}
  %c = f32[] all-reduce(%b), to_apply=%sum
}
"""

    def step(carry, _):
        return jax.lax.scan(lambda c, _: (c + 1, None), carry, length=3)

    jaxpr = jax.make_jaxpr(lambda x: jax.lax.scan(step, x, length=8))(1.0).jaxpr
    assert hlo.cycles(text, hlo.loops(jaxpr))["cycles"] == 8 * (30 + 3 * 2) + 5
    assert hlo.cycles(text, [])["cycles"] is None
    assert list(hlo.collectives(text)) == ["all-reduce"]


def test_verdicts_come_from_the_figures():
    assert common.verdict(1.0, 1.0) == "met (<= 1)"
    assert common.verdict(1.1, 1.0) == "MISSED (<= 1)"
    assert common.verdict(float("nan"), 1.0) == "MISSED (<= 1)"


def test_the_gpu_description_is_a_text_proto():
    text = targets.options("h100", 2)["target_config"]
    assert "cuda_compute_capability {\nmajor: 9\nminor: 0\n}" in text
    assert text.count("{") == text.count("}")
