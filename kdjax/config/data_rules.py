"""What data and tokenizer must satisfy before anything is read."""

from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

from kdjax.config.architecture import MOST_IDS
from kdjax.config.parsing import between, whole
from kdjax.config.schema import SOURCES, Config, DataConfig
from kdjax.core.errors import UsageError


class _Only(NamedTuple):
    """A key that does nothing unless another one has some value."""

    key: str
    serves: Callable[[Config], bool]
    condition: str


def _is_files(config: Config) -> bool:
    return config.data.source == "files"


def _is_file(config: Config) -> bool:
    return config.tokenizer.kind == "file"


def _is_not_stdlib(config: Config) -> bool:
    return config.data.source != "stdlib"


_LONGEST = 1 << 24  # tokens of a row
_MOST_HELD_OUT = 0.9  # of the text, both splits together
_FILES, _FILE = "config.data.source = 'files'", "config.tokenizer.kind = 'file'"
_ONLY = (
    _Only("data.pattern", _is_files, _FILES),
    _Only("data.documents", _is_files, _FILES),
    _Only("data.unreadable", _is_not_stdlib, _FILES),
    _Only("data.text_field", _is_not_stdlib, _FILES),
    _Only(
        "data.allow_download",
        lambda config: config.data.source.startswith("tfds:"),
        "config.data.source = 'tfds:NAME'",
    ),
    _Only("tokenizer.path", _is_file, _FILE),
    _Only("tokenizer.bos", _is_file, _FILE),
    _Only(
        "tokenizer.vocab_size",
        lambda config: config.tokenizer.kind == "bpe",
        "config.tokenizer.kind = 'bpe'",
    ),
    _Only(
        "student.calibration_rows",
        lambda config: config.student.is_pruned,
        "a student pruned from the teacher (config.student.init)",
    ),
)


def check_data(config: Config) -> None:
    """Raises on errors that can be found without reading data or tokenizer.

    Raises:
        UsageError: A value is wrong, missing, or would do nothing.
    """
    data, tokenizer = config.data, config.tokenizer
    source, _, name = data.source.partition(":")
    if source not in SOURCES or (source == "tfds") != bool(name):
        raise UsageError(
            f"config.data.source must be one of {', '.join(SOURCES)} (as tfds:NAME); "
            f"it is {data.source!r}"
        )
    if data.source == "files" and not data.pattern:
        raise UsageError(
            "config.data.pattern is empty; set it to a glob such as 'corpus/**/*.md'"
        )
    if tokenizer.kind == "file" and not tokenizer.path:
        raise UsageError(
            "config.tokenizer.path is empty; set it to a tokenizer.json, "
            "or choose config.tokenizer.kind = 'bpe'"
        )
    defaults = Config()
    for key, serves, condition in _ONLY:
        value = attrgetter(key)(config)
        if value != attrgetter(key)(defaults) and not serves(config):
            raise UsageError(
                f"config.{key} = {value!r} is for {condition} and would do nothing "
                "here; remove it or set that"
            )
    whole(data.length, 2, _LONGEST, "config.data.length")
    _check_held_out(data)
    between(tokenizer.lost_fraction, 0.0, 1.0, "config.tokenizer.lost_fraction")
    if tokenizer.kind == "bpe" and not 257 <= tokenizer.vocab_size <= MOST_IDS:
        raise UsageError(
            "config.tokenizer.vocab_size must be at least 257 (every byte and the end "
            f"of text) and at most {MOST_IDS:,}; it is {tokenizer.vocab_size}"
        )


def _check_held_out(data: DataConfig) -> None:
    between(data.validation_fraction, 0.0, 0.5, "config.data.validation_fraction")
    between(data.test_fraction, 0.0, 0.5, "config.data.test_fraction")
    if (held_out := data.validation_fraction + data.test_fraction) > _MOST_HELD_OUT:
        raise UsageError(
            "config.data.validation_fraction and config.data.test_fraction may be "
            f"{_MOST_HELD_OUT:g} together; they are {held_out:g}: lower one of them"
        )
