"""Tokenizers without a tokenizer.json: a vocab.json and a merges.txt."""

import json

import tokenizers
from etils import epath
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from kdjax.core.errors import UsageError
from kdjax.text.beside import Beside

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By `model_type` in config.json, for directories that do not name the class.
_KINDS = {"gpt2": "GPT2Tokenizer", "opt": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer"}


def read_older(path: epath.Path, beside: Beside) -> tokenizers.Tokenizer:
    """Returns the tokenizer in a vocab.json and a merges.txt beside a missing file.

    The two do not tell how texts are split into words. That is known of GPT-2's and
    Qwen2's tokenizers; others have to be converted by their own class.

    Raises:
        UsageError: The files are missing or damaged, or belong to another tokenizer.
    """
    directory = path.parent
    vocab, merges = directory / "vocab.json", directory / "merges.txt"
    kind = beside.kind or _KINDS.get(_model_type(directory), "")
    if path.name != "tokenizer.json":
        raise UsageError(f"{path} is not a readable tokenizer.json (there is no file)")
    has_files = vocab.exists() and merges.exists()
    if not has_files or kind not in _KINDS.values():
        raise UsageError(
            f"{path} is missing; write it with transformers: "
            f"AutoTokenizer.from_pretrained('{directory}').save_pretrained("
            f"'{directory}')"
        )
    try:
        model = models.BPE.from_file(str(vocab), str(merges))
    # The library raises bare Exception for files it cannot parse.
    except Exception as error:
        raise UsageError(
            f"{vocab} and {merges.name} are no tokenizer ({error})"
        ) from None
    tokenizer = tokenizers.Tokenizer(model)
    space = beside.add_prefix_space
    if kind == "Qwen2Tokenizer":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN2), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _model_type(directory: epath.Path) -> str:
    try:
        config = json.loads((directory / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("model_type")) if isinstance(config, dict) else ""
