"""How the axes of a checkpoint's tensor map to those of a parameter.

A layout such as ``(h k) d -> d h k`` names the dimensions of the tensor in the file,
then those of the parameter. The letters are the project's, in lower case: d width,
h heads, g key-value heads, k head width, f ffn width, v vocabulary, p positions. A
digit selects one of three parts fused in one tensor: ``d (0 h k)`` are GPT-2's queries.
``p+2`` has two unused leading rows.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from kdjax.formats.safetensors import Index

Bounds = tuple[int, int]
Sizes = Mapping[str, int]
_FUSED = 3


class Layout(NamedTuple):
    """A parsed layout.

    Attributes:
        axes: For each dimension of the file's tensor, the dimensions it unfolds to.
        skips: For each of them, the number of leading rows to skip.
        letters: The parameter's dimensions.
    """

    axes: tuple[tuple[str, ...], ...]
    skips: tuple[int, ...]
    letters: tuple[str, ...]

    def file_shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Returns the tensor's shape in the file.

        Example:
            >>> parse("(h k) d -> d h k").file_shape({"d": 6, "h": 2, "k": 4})
            (8, 6)
        """
        return tuple(
            skip + math.prod(_size(token, sizes) for token in axis)
            for axis, skip in zip(self.axes, self.skips, strict=True)
        )

    def read(
        self,
        read: Callable[[Index], np.ndarray],
        index: Index,
        sizes: Sizes,
        result: np.ndarray,
    ) -> None:
        """Fills an array with a part of the parameter, reading only what it needs.

        Args:
            read: Returns a part of the tensor in the file.
            index: The part of the parameter, one slice of bounds per letter. Beyond the
                file's vocabulary it is zero.
            sizes: The size of every letter in the file.
            result: An array of the shape that the index selects.
        """
        bounds = {
            letter: (where.start, max(where.start, min(where.stop, sizes[letter])))
            for letter, where in zip(self.letters, index, strict=True)
        }
        ranges, shape, rest = [], [], []
        for axis, skip in zip(self.axes, self.skips, strict=True):
            (low, high), unfolded, inner = _span(axis, bounds, sizes)
            ranges.append(slice(low + skip, high + skip))
            shape += unfolded
            rest += inner
        part = read(tuple(ranges)).reshape(shape)[tuple(rest)]
        part = part.transpose([self._stored.index(letter) for letter in self.letters])
        if part.shape != result.shape:
            result[...] = 0
        result[tuple(map(slice, part.shape))] = part

    def write(self, tensor: np.ndarray, parameter: np.ndarray, sizes: Sizes) -> None:
        """Copies a whole parameter into its part of the file's tensor."""
        rows = tuple(slice(skip, None) for skip in self.skips)
        tokens = [token for axis in self.axes for token in axis]
        unfolded = tensor[rows].reshape([_size(token, sizes) for token in tokens])
        where = tuple(int(t) if t.isdigit() else slice(None) for t in tokens)
        real = tuple(slice(sizes[letter]) for letter in self.letters)
        order = [self.letters.index(letter) for letter in self._stored]
        unfolded[where] = parameter[real].transpose(order)

    @property
    def _stored(self) -> list[str]:
        """The letters in the file's order."""
        return [token for axis in self.axes for token in axis if not token.isdigit()]


@functools.cache
def parse(text: str) -> Layout:
    """Parses a layout; without an arrow, both sides are the same."""
    stored, _, parameter = text.partition(" -> ")
    axes, skips = [], []
    for folded, single in re.findall(r"\(([^)]*)\)|(\S+)", stored):
        letters, _, skip = (folded or single).partition("+")
        axes.append(tuple(letters.split()))
        skips.append(int(skip or 0))
    layout = Layout(tuple(axes), tuple(skips), tuple(parameter.split()))
    return layout if parameter else layout._replace(letters=tuple(layout._stored))


def _size(token: str, sizes: Sizes) -> int:
    return _FUSED if token.isdigit() else sizes[token]


def _span(
    axis: tuple[str, ...], bounds: Mapping[str, Bounds], sizes: Sizes
) -> tuple[Bounds, list[int], list[int | slice]]:
    """Returns the shortest range of an axis that covers the bounds.

    Returns:
        The range, the dimensions it unfolds to, and the index into each of them.
    """
    low, extent = 0, math.prod(_size(token, sizes) for token in axis)
    shape: list[int] = []
    where: list[int | slice] = []
    is_range = False
    for token in axis:
        size = _size(token, sizes)
        start, stop = (int(token), int(token) + 1) if token.isdigit() else bounds[token]
        if not is_range:
            extent //= size
            low += start * extent
            high = low + (stop - start) * extent
            is_range = stop - start != 1
            start, stop, size = 0, stop - start, stop - start
        shape.append(size)
        where.append(start if token.isdigit() else slice(start, stop))
    return (low, high), shape, where
