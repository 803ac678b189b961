"""The text that an experiment had, and which of its splits is for what."""

import dataclasses
from collections.abc import Collection

VALIDATION = "validation"  # the split measured along runs, by which settings are chosen
TEST = "test"  # a split by which nothing is chosen


@dataclasses.dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer, and the ids that it prepends to each text.

    Attributes:
        kind: As in the config.
        vocab_size: One more than its largest id.
        sha256: The hash of its content.
        prefix: The ids before each text.
        changes: Its steps that change texts beyond recovery, such as Lowercase.
    """

    kind: str
    vocab_size: int
    sha256: str
    prefix: tuple[int, ...] = ()
    changes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """The size of a split's text and of the rows made from it.

    Attributes:
        documents: How many.
        bytes: Of the text in UTF-8.
        tokens: Those that are predicted.
        rows: How many.
        sha256: The hash of the text.
        largest_id: Of all rows.
        lost_bytes: Of text that no id stands for, or that of unknown text; None: not
            counted, by an older version.
        control_tokens: The documents whose text spells one.
    """

    documents: int
    bytes: int
    tokens: int
    rows: int
    sha256: str
    largest_id: int = 0
    lost_bytes: int | None = None
    control_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """The text, and how it became rows of `length` tokens."""

    source: str
    length: int
    python: str  # its version; the source "stdlib" is its standard library
    skipped_files: int
    tokenizer: TokenizerInfo
    splits: dict[str, SplitInfo]
    # What became of control tokens in texts, "text" or "parse"; "": there are none.
    special_tokens: str = ""
    skipped_records: int = 0  # lines, rows or examples


def headline(splits: Collection[str]) -> str:
    """Returns the split that decides the verdict: "test", if it is one of them."""
    return TEST if TEST in splits else VALIDATION
