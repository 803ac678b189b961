"""GGUF files: architecture, weights and tokenizer in one."""

import functools
from collections.abc import Iterable, Mapping

from etils import epath

from kdjax.checkpoints.gguf.model import read_gguf
from kdjax.checkpoints.hf.families import Family
from kdjax.checkpoints.pretrained import PretrainedModel, ids_among
from kdjax.config.architecture import ModelConfig
from kdjax.core.errors import UsageError
from kdjax.formats.gguf import Header, read_header
from kdjax.formats.safetensors import Stored
from kdjax.text import TokenizerFile, read_gguf_tokenizer

_STOPS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")


class GgufModel(PretrainedModel):
    """A .gguf file."""

    @functools.cached_property
    def _header(self) -> Header:
        return read_header(self.path)

    @functools.cached_property
    def _content(self) -> tuple[Family, ModelConfig, Mapping[str, Stored]]:
        return read_gguf(self._header, self.path)

    @property
    def _architecture(self) -> tuple[Family, ModelConfig]:
        return self._content[:2]

    @property
    def _tensors(self) -> Mapping[str, Stored]:
        return self._content[2]

    @property
    def tokenizer_path(self) -> epath.Path:
        """The file itself."""
        return self.path

    @functools.cached_property
    def _tokenizer_file(self) -> TokenizerFile:
        return TokenizerFile(*read_gguf_tokenizer(self._header.metadata, self.path))

    @functools.cached_property
    def stop_tokens(self) -> tuple[int, ...]:
        """The tokens that end a text and, if different, a turn."""
        if stops := ids_among(self._header.metadata.get(key) for key in _STOPS):
            return stops
        raise UsageError(f"{self.path} names no end of text ({_STOPS[0]})")

    def _files(self) -> Iterable[epath.Path]:
        return (self.path,)
