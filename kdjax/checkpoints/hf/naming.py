"""What tensors are called in a checkpoint, wrapped by whatever trained the model."""

import re
from collections.abc import Iterable, Mapping

from kdjax.checkpoints.hf.families import Family
from kdjax.core.errors import UsageError

# torch.compile, FSDP and activation checkpointing wrap a model or some of its modules.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# DistributedDataParallel, PEFT, TRL and multimodal models wrap the whole of it.
_OUTSIDE = ("module.", "base_model.", "pretrained_model.", "language_model.", "model.")
_HEADS = r"^(score|classifier|classification_head|qa_outputs|v_head|value_head)\."
_ADAPTER = r"\.(lora_[A-Za-z_]+|base_layer|modules_to_save)\."


def stem(name: str, prefix: str) -> str:
    """Returns a tensor's name without wrappers, and without the base model's prefix.

    Example:
        >>> stem("module._orig_mod.transformer.h.0.ln_1.weight", "transformer.")
        'h.0.ln_1.weight'
    """
    bare = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    outside, start = (*_OUTSIDE, prefix), 0
    while found := next((p for p in outside if bare.startswith(p, start)), ""):
        start += len(found)
    return bare[start:]


class Names:
    """The names in a file of the tensors of a family."""

    def __init__(self, family: Family, names: Iterable[str]) -> None:
        """Reads the names.

        Raises:
            UsageError: Two of them stand for the same tensor, or some are an adapter's.
        """
        self._family = family
        self._found: dict[str, str] = {}
        for name in sorted(names):
            if re.search(_ADAPTER, name):
                raise UsageError(
                    f"the tensor {name[:80]!r} is part of an adapter that is not "
                    "merged into its model; merge it with peft, by merge_and_unload(), "
                    "and save the result"
                )
            other = self._found.setdefault(self._stem(name), name)
            if other != name and not re.search(family.ignored, name):
                raise UsageError(
                    f"the tensors {other[:80]!r} and {name[:80]!r} have the same place "
                    "in the model; remove one of them"
                )

    def __call__(self, name: str) -> str | None:
        """Returns the name in the file of a tensor; None: it is missing."""
        return self._found.get(self._stem(name))

    def _stem(self, name: str) -> str:
        bare = stem(name, self._family.prefix)
        return self._family.aliases.get(bare, bare)

    def missing(self, name: str, head: str) -> str:
        """Returns what to do about a tensor that is missing, in one line.

        Args:
            name: The tensor's usual name.
            head: The usual name of the head.
        """
        message = f"the tensor {name!r} is missing"
        wanted = stem(name, self._family.prefix)
        for found in self._found.values():
            change = ""
            if found.endswith(f".{wanted}"):
                outside = found.removesuffix(name).removesuffix(wanted)
                change = f"remove {outside[:80]!r} from"
            elif wanted.endswith(f".{found}"):
                change = f"put {name.removesuffix(found)!r} before"
            if change:
                it = f"{found[:120]!r} is it"
                return f"{message}; if {it}, {change} the tensors' names"
        if name == head:
            return (
                f"{message}: a base model, an embedder or a classifier has no head; "
                "choose a causal language model, or set tie_word_embeddings to true "
                "in config.json if its head is the embedding"
            )
        return (
            f"{message}: either it was left out when the checkpoint was saved, or "
            "config.json is another model's; compare it with the original"
        )

    def unexpected(self, name: str) -> str:
        """Returns what to do about a tensor that the model does not have."""
        if re.search(_HEADS, stem(name, self._family.prefix)):
            return (
                f"the tensor {name[:80]!r} is the head of a classifier or a reward "
                "model; choose a causal language model, or remove the tensor to use "
                "the rest as one"
            )
        return (
            f"the tensor {name[:80]!r} has no place in a {self._family.name} model "
            "with this config"
        )


def tied(names: Names, embedding: str, head: str) -> Mapping[str, str]:
    """Returns the name under which a tied embedding is stored, if it is the head's."""
    stored = names(head)
    return {embedding: stored} if names(embedding) is None and stored else {}
