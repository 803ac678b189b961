"""What a pass over a batch's tokens computes, on which arrays, and where."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, get_abstract_mesh
from jaxtyping import Array

from kdjax.losses.targets import Targets, part
from kdjax.losses.vocabulary import Vocabulary

MAX_PADDING = 1024  # the most ids by which tables of one tokenizer may differ


class LossSharding(NamedTuple):
    """How a loss is sharded over a mesh: tokens over some axes, ids over another."""

    mesh: Mesh | AbstractMesh
    tokens: tuple[str, ...] = ("data", "fsdp")
    vocabulary: str = "tensor"

    def inside(self) -> "LossSharding":
        """Returns the same over the axes that no `shard_map` around has taken."""
        mesh = get_abstract_mesh()
        if not mesh.manual_axes:
            return self
        tokens = tuple(x for x in self.tokens if x not in mesh.manual_axes)
        return self._replace(mesh=mesh, tokens=tokens)


class Plan(NamedTuple):
    """Everything about a pass that is known before it is traced.

    Attributes:
        function: `function(logits, targets, labels, scalars, over)`, what is computed
            per token from the model's logits [N, V] and those of the targets by name: a
            pytree of [N], for `each_gradient` a pair whose first item is the loss.
        size: How many ids there are on all devices together, padding included.
        real: How many of them count, by name: for the model, under the empty name, the
            ids it knows; for each target, the ids that both it and the model know.
        chunk_size: Tokens at a time on one device; None: chosen by memory and speed.
        sharding: How the work is sharded; None: not at all.
        platform: Of the devices: "cpu", "gpu" or "tpu".
    """

    function: Callable[..., Any]
    size: int
    real: Mapping[str, int]
    chunk_size: int | None
    sharding: LossSharding | None
    platform: str

    @property
    def over(self) -> Vocabulary:
        """How to reduce over the ids."""
        return Vocabulary(self.sharding.vocabulary if self.sharding else None)

    @property
    def local_size(self) -> int:
        """How many ids one device has."""
        return self.size // vocabulary_shards(self.sharding)


class Inputs(NamedTuple):
    """What a pass reads: arrays, or a tree of their partition specs; None if absent.

    Attributes:
        model: The model that is evaluated or, as `FromHidden`, trained.
        targets: What it is compared with, by name.
        labels: The true ids, [*batch].
        weights: The weight of each token, [*batch].
        scalars: Traced numbers that the function takes.
    """

    model: Any
    targets: Any
    labels: Any
    weights: Any
    scalars: Any

    @property
    def models(self) -> dict[str, Any]:
        """The model, under the empty name, and the targets."""
        return {"": self.model, **self.targets}

    def replaced(
        self, models: Mapping[str, Any], labels: Any, weights: Any
    ) -> "Inputs":
        """Returns the inputs with other models, labels and weights."""
        targets = {name: models[name] for name in self.targets}
        return Inputs(models[""], targets, labels, weights, self.scalars)


def prepare(
    function: Callable[..., Any],
    model: Targets,
    targets: Mapping[str, Targets],
    labels: Array,
    weights: Array | None,
    scalars: Mapping[str, Any],
    chunk_size: int | None,
    sharding: LossSharding | None,
) -> tuple[Plan, Inputs]:
    """Returns the plan and its arrays, with all targets fitted to one number of ids.

    Raises:
        ValueError: Hidden states and head differ in width, arrays differ in their
            tokens, or vocabularies differ by more than padding.
    """
    platform = jax.default_backend()
    if sharding is not None:
        platform = sharding.mesh.devices.flat[0].platform
        sharding = sharding.inside() if sharding.mesh.size > 1 else None
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1; it is {chunk_size}")
    everything = {"": model, **targets}
    tokens, ids = part(everything)[:2]
    _check_vocabularies(model.real, targets)
    _check_tokens(labels, tokens, weights)
    if weights is not None:
        weights = weights.astype(jnp.float32)
    shards = vocabulary_shards(sharding)
    sizes = {leaf.shape[-1] for leaf in ids}
    size = max(sizes, default=0)
    if len(sizes) != 1 or size % shards:
        most = max(each.real for each in everything.values())
        size = -(-most // shards) * shards
    real = {name: min(each.real, model.real) for name, each in everything.items()}
    plan = Plan(function, size, real, chunk_size, sharding, platform)
    fitted = {name: each.fitted(size) for name, each in targets.items()}
    return plan, Inputs(model, lax.stop_gradient(fitted), labels, weights, scalars)


def vocabulary_shards(sharding: LossSharding | None) -> int:
    """Returns the number of devices that the ids are sharded over."""
    return 1 if sharding is None else sharding.mesh.shape[sharding.vocabulary]


def _check_vocabularies(real: int, targets: Mapping[str, Targets]) -> None:
    for name, each in targets.items():
        if abs(each.real - real) > MAX_PADDING:
            raise ValueError(
                f"the student's {real} ids and the {name}'s {each.real} are not one "
                "vocabulary with different padding; both must share a tokenizer"
            )


def _check_tokens(
    labels: Array, tokens: Sequence[Array], weights: Array | None
) -> None:
    shapes = [x.shape[: labels.ndim] for x in tokens]
    shapes += [] if weights is None else [weights.shape]
    if labels.size == 0 or any(shape != labels.shape for shape in shapes):
        listed = ", ".join(map(str, shapes))
        raise ValueError(
            f"labels {labels.shape} must be for the same tokens, at least one, as "
            f"hidden states, targets and weights ({listed})"
        )
