"""Directories in the Hugging Face format."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from kdjax.checkpoints.hf.families import Family
from kdjax.checkpoints.hf.translate import read_config
from kdjax.checkpoints.pretrained import PretrainedModel, ids_among
from kdjax.config.architecture import ModelConfig
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json
from kdjax.formats.safetensors import Stored, open_weights
from kdjax.text import TokenizerFile, read_tokenizer

CONFIG, _GENERATION = "config.json", "generation_config.json"
_ADAPTER = "adapter_config.json"


class HuggingFaceModel(PretrainedModel):
    """A `config.json`, one or several safetensors files, and a `tokenizer.json`."""

    @functools.cached_property
    def _config(self) -> dict[str, Any]:
        """The content of `config.json`."""
        if self._is_adapter:
            base = read_json(self.path / _ADAPTER).get("base_model_name_or_path")
            raise UsageError(
                f"{self.path} holds an adapter of {str(base)[:80]!r}, not a whole "
                "model; merge it with peft: AutoPeftModelForCausalLM.from_pretrained("
                f"'{self.path}').merge_and_unload().save_pretrained("
                f"'{self.path}-merged')"
            )
        return read_json(self.path / CONFIG)

    @property
    def is_claimed(self) -> bool:
        """Whether `config.json` describes a model; runs have a `config.json` too."""
        if self._is_adapter:
            return True  # to be refused with what to do about it
        try:
            return "model_type" in self._config
        except UsageError:
            return False

    @property
    def _is_adapter(self) -> bool:
        """Whether transformers would load an adapter, even beside a whole model."""
        return (self.path / _ADAPTER).exists()

    @functools.cached_property
    def _architecture(self) -> tuple[Family, ModelConfig]:
        return read_config(self._config, str(self.path / CONFIG))

    @functools.cached_property
    def _tensors(self) -> Mapping[str, Stored]:
        return open_weights(self.path)

    @property
    def tokenizer_path(self) -> epath.Path:
        """The tokenizer.json in the directory."""
        return self.path / "tokenizer.json"

    @functools.cached_property
    def _tokenizer_file(self) -> TokenizerFile:
        return read_tokenizer(self.tokenizer_path)

    @functools.cached_property
    def stop_tokens(self) -> tuple[int, ...]:
        """The ids in the first file that names any, in transformers' order.

        The token that ends an answer, by the tokenizer's files, follows them.
        """
        for values in (self._generation, self._config):
            found = values.get("eos_token_id")
            if stops := ids_among(found if isinstance(found, list) else [found]):
                return ids_among([*stops, self._end_of_answer])
        raise UsageError(
            f"{self.path / CONFIG} names no end of text; add eos_token_id, the "
            "token's id"
        )

    @property
    def _end_of_answer(self) -> int | None:
        try:
            tokenizer, chat = self._tokenizer_file[:2]
        except UsageError:  # whoever asks for the tokenizer is told
            return None
        return tokenizer.token_to_id(chat.eos_token)

    @property
    def _generation(self) -> dict[str, Any]:
        try:
            return read_json(self.path / _GENERATION)
        except UsageError:  # few models need one
            return {}

    def _files(self) -> Iterable[epath.Path]:
        for file in sorted(self.path.iterdir()):
            if file.name == CONFIG or file.suffix == ".safetensors":
                yield file
