"""What a teacher says about every token: `Targets`, and where they can come from.

A loss asks targets for the logits of one chunk of tokens and one slice of the
vocabulary at a time; it cannot tell whether a teacher computes them in the step or they
were read with the batch.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax.losses.head import Head, check_width, fit, head_logits, mask, narrow
from kdjax.losses.vocabulary import Vocabulary

TOKENS, IDS = "tokens", "ids"  # what a leaf of the targets is indexed by


@runtime_checkable
class Targets(Protocol):
    """Next-token distributions of a batch's tokens; a registered pytree.

    Its leaves are arrays over tokens, [*batch, ...], chunked and sharded as the tokens
    are, or arrays over ids, [..., V], sharded as the vocabulary is.
    """

    @property
    def real(self) -> int:
        """How many ids are real; those beyond are padding."""

    def layout(self) -> "Targets":
        """Returns the same tree with `TOKENS` or `IDS` in place of every leaf."""

    def fitted(self, size: int) -> "Targets":
        """Returns the targets with their arrays over ids padded to `size` ids."""

    def logits(self, over: Vocabulary, size: int, real: int) -> Float[Array, "N V"]:
        """Returns unnormalised float32 scores of the `size` local ids.

        Args:
            over: Which of the vocabulary's ids are local.
            size: How many ids are local.
            real: Ids from this one on get -inf; at most the number of real ids.
        """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FromHidden:
    """A model in the step: hidden states and the head that reads them.

    Attributes:
        hidden: The last hidden states, [*batch, D].
        head: The head.
    """

    hidden: Float[Array, "*batch D"] | Any  # or another leaf, in a tree of other things
    head: Head

    @property
    def real(self) -> int:
        """How many ids are real; those beyond are padding."""
        return self.head.real

    def layout(self) -> "FromHidden":
        """Returns the same tree with `TOKENS` or `IDS` in place of every leaf."""
        head = jax.tree.map(lambda _: IDS, self.head)
        return dataclasses.replace(self, hidden=TOKENS, head=head)

    def fitted(self, size: int) -> "FromHidden":
        """Returns the same with the head padded, in the hidden states' dtype."""
        check_width(self.head, self.hidden)
        head = narrow(fit(self.head, size), self.hidden.dtype)
        return dataclasses.replace(self, head=head)

    def logits(self, over: Vocabulary, size: int, real: int) -> Float[Array, "N V"]:
        """Returns the head's logits of the `size` local ids."""
        return mask(head_logits(self.head, self.hidden), real, over)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FromSparse:
    """Targets read with the batch: some ids per token, and the mass of the rest.

    Attributes:
        ids: [*batch, K], each id at most once per token; negative ones are empty slots.
        logs: [*batch, K], their log-probabilities, nats.
        rest: [*batch], the log of the total probability of all other ids, spread evenly
            over them. None: they have none; where no id is listed, all are equal.
        real: How many ids the teacher knows.
    """

    ids: Int[Array, "*batch K"] | Any
    logs: Float[Array, "*batch K"] | Any
    rest: Float[Array, "*batch"] | Any | None = None
    real: int = dataclasses.field(kw_only=True, metadata={"static": True})

    def layout(self) -> "FromSparse":
        """Returns the same tree with `TOKENS` or `IDS` in place of every leaf."""
        return jax.tree.map(lambda _: TOKENS, self)

    def fitted(self, size: int) -> "FromSparse":
        """Returns itself: no array has an entry for each id."""
        return self

    def logits(self, over: Vocabulary, size: int, real: int) -> Float[Array, "N V"]:
        """Returns the log-probabilities of the `size` local ids."""
        is_listed = (self.ids >= 0) & (self.ids < real)
        # A token without a target must not give an infinite loss, even at weight 0.
        others = jnp.where(is_listed.any(-1), -jnp.inf, 0.0)
        if self.rest is not None:
            count = real - is_listed.sum(-1)
            others = self.rest.astype(jnp.float32) - jnp.log(jnp.maximum(count, 1))
        local = self.ids - over.first(size)
        # An index beyond the end is dropped; a negative one would wrap around.
        place = jnp.where(is_listed & (local >= 0), jnp.minimum(local, size), size)
        rows = jnp.arange(place.shape[0])[:, None]
        logits = jnp.broadcast_to(others[:, None], (place.shape[0], size))
        logits = logits.at[rows, place].set(self.logs.astype(jnp.float32), mode="drop")
        return mask(logits, real, over)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ensemble:
    r"""Several teachers as one: the weighted mean of their probabilities.

    Computes :math:`\log \sum_i w_i\, p_i` with weights normalised to sum to one. A
    temperature softens it as it does any teacher, after the mean.

    Attributes:
        members: The teachers; the same id means the same token to all of them.
        weights: The weight of each member, > 0.

    References:
        Hinton et al. 2015, arXiv:1503.02531, section 1.
    """

    members: tuple[Targets | Any, ...]
    weights: tuple[float, ...] = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        if not self.members or len(self.members) != len(self.weights):
            raise ValueError(
                f"an ensemble needs one weight for each of its {len(self.members)} "
                f"members, at least one; there are {len(self.weights)}"
            )
        if not all(0.0 < weight < math.inf for weight in self.weights):
            raise ValueError(f"an ensemble's weights must be > 0: {self.weights}")

    @property
    def real(self) -> int:
        """How many ids all members know."""
        return min(member.real for member in self.members)

    def layout(self) -> "Ensemble":
        """Returns the same tree with `TOKENS` or `IDS` in place of every leaf."""
        members = tuple(member.layout() for member in self.members)
        return dataclasses.replace(self, members=members)

    def fitted(self, size: int) -> "Ensemble":
        """Returns the same with all members fitted."""
        members = tuple(member.fitted(size) for member in self.members)
        return dataclasses.replace(self, members=members)

    def logits(self, over: Vocabulary, size: int, real: int) -> Float[Array, "N V"]:
        """Returns the log of the mean over the ids that all members know."""
        each = (member.logits(over, size, real) for member in self.members)
        if len(self.members) == 1:
            return next(each)  # unchanged: normalising would round its last bits
        total = sum(self.weights)
        mean: Any = None
        for logits, weight in zip(each, self.weights, strict=True):
            logs = over.softmax(logits).logs + math.log(weight / total)
            mean = logs if mean is None else jnp.logaddexp(mean, logs)
        return mean


class Parted(NamedTuple):
    """The leaves of targets, split by what indexes them, and how to join them."""

    tokens: list[Array]
    ids: list[Array]
    kinds: tuple[str, ...]
    structure: Any

    def joined(self, tokens: Sequence[Array], ids: Sequence[Array]) -> Any:
        """Returns the targets with these leaves instead."""
        parts = {TOKENS: iter(tokens), IDS: iter(ids)}
        return self.structure.unflatten(next(parts[kind]) for kind in self.kinds)


def part(targets: Mapping[str, Targets]) -> Parted:
    """Returns the leaves of all targets, split into those over tokens and over ids."""
    leaves, structure = jax.tree.flatten(targets)
    kinds = jax.tree.leaves({name: each.layout() for name, each in targets.items()})
    parts: dict[str, list[Array]] = {TOKENS: [], IDS: []}
    for leaf, kind in zip(leaves, kinds, strict=True):
        parts[kind].append(leaf)
    return Parted(parts[TOKENS], parts[IDS], tuple(kinds), structure)
