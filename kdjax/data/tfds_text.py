"""The texts of tensorflow-datasets data sets."""

import contextlib
import importlib
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from kdjax.config.schema import DataConfig
from kdjax.core.errors import UsageError
from kdjax.data.documents import Corpus, Document, Skipped, split_names, split_of


def tfds_text(config: DataConfig) -> Corpus:
    """Returns the text feature of any tensorflow-datasets data set.

    Raises:
        UsageError: It is not prepared, or has no such feature; while it is read, that
            an example has no text there.
    """
    name = config.source.partition(":")[2]
    builder = _tfds_builder(name, config.allow_download)
    steps = _steps(builder.info.features, config.text_field, name)
    skipped = Skipped()
    available = builder.info.splits
    held_out = next((s for s in ("validation", "test") if s in available), "train")
    is_tested = held_out == "validation" and "test" in available
    stored_as = {
        "train": "train",
        "validation": held_out,
        "test": "test" if is_tested else "train",
    }

    def is_in(split: str, key: str) -> bool:
        """Returns whether an example of "train" is in a split that shares it."""
        found = split_of(key, config)
        return split == (found if stored_as[found] == "train" else "train")

    def walk(split: str) -> Iterator[Document]:
        skipped.records[split] = 0  # it may have been walked before
        stored = stored_as[split]
        source = builder.as_data_source(split=stored)
        for index in range(len(source)):
            key = f"{stored}:{index}"
            if stored == "train" and not is_in(split, key):
                continue
            text = _text(source[index], steps)
            if isinstance(text, str):
                yield Document(key, text)
            elif config.unreadable == "skip":
                skipped.records[split] += 1
            else:
                what = "null" if text is None else "bytes that are not UTF-8"
                raise UsageError(
                    f"{name}: example {index} of {stored} has {what} in "
                    f"{config.text_field!r}, not text; set config.data.unreadable = "
                    "'skip'"
                )

    return Corpus({name: partial(walk, name) for name in split_names(config)}, skipped)


def _steps(features: Any, field: str, name: str) -> tuple[str, ...]:
    """Returns the names that lead to a text feature."""
    listed = {".".join(steps): steps for steps in _text_features(features)}
    steps = listed.get(field, listed.get(field.replace("/", ".")))
    if steps is None:
        raise UsageError(
            f"config.data.text_field = {field!r} is not a text feature of {name}; it "
            f"has: {', '.join(listed) or 'none'}"
        )
    return steps


def _text_features(features: Any) -> Iterator[tuple[str, ...]]:
    """Yields the names that lead to each text, those of groups first."""
    for name, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            yield from ((name, *steps) for steps in _text_features(feature))
        # Also scalars that are declared as strings without being called text.
        elif isinstance(feature, tfds.features.Tensor) and (
            feature.shape == () and feature.np_dtype in (object, np.str_, np.bytes_)
        ):
            yield (name,)


def _text(example: Any, steps: tuple[str, ...]) -> str | bytes | None:
    """Returns an example's text; the bytes if they are not UTF-8."""
    value = example
    for step in steps:
        value = value.get(step) if isinstance(value, Mapping) else None
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _tfds_builder(name: str, allow_download: bool) -> Any:
    """Returns a prepared builder, downloading only if allowed."""
    alternatives = (
        "use config.data.source = 'stdlib' (needs no download) or 'files' with "
        "config.data.pattern"
    )
    try:
        with _quiet():
            builder = tfds.builder(name, file_format="array_record")
            is_prepared = builder.is_prepared()
    except (AssertionError, ImportError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise UsageError(
            f"no tfds data set {name!r} ({first}); {alternatives}"
        ) from None
    if is_prepared:
        return builder
    if not allow_download:
        raise UsageError(
            f"tfds data set {name!r} is not prepared in {builder.data_dir}; set "
            f"config.data.allow_download = True to download it, or {alternatives}"
        )
    _give_up_early()
    try:
        builder.download_and_prepare()
    # A builder is third-party code: it may fail on connections, server errors,
    # checksums, or libraries that only this data set needs.
    except Exception as error:
        first = str(error).partition("\n")[0][:120]
        raise UsageError(
            f"cannot download {name!r} ({first}); {alternatives}"
        ) from None
    return builder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences tfds warnings that our error message states better."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _give_up_early() -> None:
    """Makes tfds fail at the first refused connection, without minutes of retries."""
    downloader = importlib.import_module("tensorflow_datasets.core.download.downloader")
    downloader.MAX_RETRIES = 0  # type: ignore[attr-defined]
