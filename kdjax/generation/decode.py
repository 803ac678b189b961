"""Continues prompts with a model: prefill, then one token per row and step."""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from kdjax.core.errors import UsageError
from kdjax.generation.sampling import Sampling, sample
from kdjax.losses import padded_logits
from kdjax.models import Model

ENDED = -1  # what a row yields after its end
_SMALLEST = 16  # positions; sizes are powers of two from this one on


class Shape(NamedTuple):
    """The shape of compiled programs: rows, prompt slots, and all cache slots."""

    batch: int
    prompt: int
    length: int


class Programs(NamedTuple):
    """The two compiled programs of one shape."""

    prefill: Callable[..., tuple[Any, Array]]
    step: Callable[..., tuple[Any, Array]]


class Generator:
    """Continues prompts with one model.

    Programs are compiled once per shape. Lengths are padded to powers of two, so that
    prompts of any length need few programs.
    """

    def __init__(
        self,
        model: Model,
        params: Any,
        *,
        sampling: Sampling = Sampling(),  # noqa: B008 (a constant)
        stops: Collection[int] = (),
        options: dict[str, Any] | None = None,
    ) -> None:
        """Compiles nothing yet.

        Args:
            model: A model with `decode` and `init_cache`.
            params: Its parameters; they are used where they are placed.
            sampling: How tokens are sampled.
            stops: Tokens that end a row.
            options: The compiler's, as `jax.jit` takes them.

        Raises:
            ValueError: The model cannot decode.
        """
        if model.decode is None or model.init_cache is None:
            raise ValueError("the model has neither decode nor init_cache")
        self._model, self._params = model, params
        self._stops, self._options = frozenset(stops), options
        self._functions = _make_programs(model, sampling)
        self._compiled: dict[Shape, Programs] = {}

    def with_params(self, params: Any) -> "Generator":
        """Returns a generator with other parameters, placed alike; shares programs."""
        other = copy.copy(self)
        other._params = params
        return other

    def shape(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> Shape:
        """Returns the shape that a batch of prompts needs.

        Raises:
            UsageError: A prompt is empty, or the model has too few positions.
            ValueError: There are no prompts, or they are not lists of ids.
        """
        if not prompts or any(isinstance(prompt, str | int) for prompt in prompts):
            raise ValueError("prompts must be lists of ids, such as [[1, 2], [3]]")
        limit, longest = self._model.config.max_length, max(map(len, prompts))
        if not all(prompts):
            raise UsageError("a prompt has no tokens; write something to continue")
        prompt, length = _padded(longest), _padded(longest + max_tokens)
        if limit:
            if longest + max_tokens > limit:
                raise UsageError(
                    f"a prompt of {longest} tokens and --max_tokens={max_tokens} "
                    f"exceed the {limit} positions that the model was made for; "
                    "reduce one of them"
                )
            # With learned positions, padding must not index past the end of the table.
            prompt, length = min(prompt, limit), min(length, limit)
        return Shape(len(prompts), prompt, length)

    def compile(self, shape: Shape) -> Programs:
        """Returns the programs of a shape, compiled on first use."""
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(shape)
        return self._compiled[shape]

    def _compile(self, shape: Shape) -> Programs:
        rows = jax.ShapeDtypeStruct((shape.batch,), jnp.int32)
        tokens = jax.ShapeDtypeStruct((shape.batch, shape.prompt), jnp.int32)
        keys = jax.eval_shape(lambda: _row_keys(jax.random.key(0), shape.batch))
        prefill = jax.jit(self._functions.prefill, static_argnames="length").lower(
            self._params, tokens, rows, keys, length=shape.length
        )
        compiled = prefill.compile(self._options)
        # The cache stays where the first program puts it.
        placed = compiled.output_shardings
        cache, made = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            prefill.out_info,
            placed,
        )
        step = jax.jit(
            self._functions.step, donate_argnames="cache", out_shardings=placed
        ).lower(self._params, cache, made, rows, keys)
        return Programs(compiled, step.compile(self._options))

    def __call__(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, key: Key[Array, ""]
    ) -> Iterator[Int[np.ndarray, "B"]]:
        """Yields the next token of every prompt, until all have ended.

        A row depends on its prompt, its index and the key, not on the other rows.

        Args:
            prompts: The token ids of each prompt; lengths may differ.
            max_tokens: The maximum number of tokens per row.
            key: Determines what is sampled.

        Yields:
            One token per row, or `ENDED` once the row has ended. Stop tokens are not
            yielded.

        Raises:
            UsageError: A prompt is empty, or the model has too few positions.
        """
        shape = self.shape(prompts, max_tokens)
        programs = self.compile(shape)
        padded = np.zeros((shape.batch, shape.prompt), np.int32)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = prompt
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        keys = _row_keys(key, shape.batch)
        cache, tokens = programs.prefill(self._params, padded, lengths, keys)
        has_ended = np.zeros(shape.batch, bool)
        for count in range(max_tokens):
            ahead = tokens
            if count + 1 < max_tokens:  # the devices work while these are read
                cache, ahead = programs.step(
                    self._params, cache, tokens, lengths + np.int32(count), keys
                )
            found = np.asarray(tokens)
            has_ended |= np.isin(found, list(self._stops))
            if has_ended.all():
                return
            yield np.where(has_ended, ENDED, found)
            tokens = ahead


def _padded(length: int) -> int:
    """Returns the next power of two, at least `_SMALLEST`.

    Example:
        >>> [_padded(length) for length in (1, 16, 17)]
        [16, 16, 32]
    """
    return max(_SMALLEST, 1 << (length - 1).bit_length())


def _row_keys(key: Key[Array, ""], batch: int) -> Key[Array, "B"]:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(batch))


def _make_programs(model: Model, sampling: Sampling) -> Programs:
    """Returns the functions to compile."""
    init_cache, decode = model.init_cache, model.decode
    assert init_cache is not None and decode is not None

    def draw(
        params: Any,
        hidden: Float[Array, "B D"],
        positions: Int[Array, "B"],
        keys: Key[Array, "B"],
    ) -> Int[Array, "B"]:
        logits = padded_logits(model.head(params), hidden)
        keys = jax.vmap(jax.random.fold_in)(keys, positions)
        return sample(logits, keys, sampling).astype(jnp.int32)

    def prefill(
        params: Any,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        keys: Key[Array, "B"],
        length: int,
    ) -> tuple[Any, Int[Array, "B"]]:
        """Returns the cache of the prompts and the token that follows each."""
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        cache = init_cache(tokens.shape[0], length)
        hidden, cache = decode(params, cache, tokens, positions)
        last = hidden[jnp.arange(tokens.shape[0]), lengths - 1]
        return cache, draw(params, last, lengths, keys)

    def step(
        params: Any,
        cache: Any,
        tokens: Int[Array, "B"],
        positions: Int[Array, "B"],
        keys: Key[Array, "B"],
    ) -> tuple[Any, Int[Array, "B"]]:
        """Returns the cache with the tokens at their positions, and the next ones."""
        hidden, cache = decode(params, cache, tokens[:, None], positions[:, None])
        return cache, draw(params, hidden[:, 0], positions + 1, keys)

    return Programs(prefill, step)
