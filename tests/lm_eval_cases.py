"""Models and requests that lm-evaluation-harness and kdjax must agree on.

`lm_eval.json` holds what the harness's own class for transformers' models answers;
`make_lm_eval_fixtures.py` writes it.
"""

import dataclasses
import functools

import tokenizers
from etils import epath
from tokenizers import decoders, pre_tokenizers, processors, trainers
from toys import FAMILIES, random_params

from kdjax import models
from kdjax.config import TokenizerConfig
from kdjax.text import load_tokenizer, train_tokenizer

WORDS = [
    "the theory of the thing, then the end of the theory: a naïve café\n",
    "Question: what is the end of the thing?\nAnswer: the theory of the end\n",
] * 9
LONG = "the end of the theory of the thing, " * 20


def by_bytes(directory):
    """GPT-2's kind: bytes, no BOS token."""
    del directory
    return train_tokenizer(WORDS, TokenizerConfig(vocab_size=320))


def with_bos(directory):
    """Llama's kind: words begin with ▁, texts with <s>."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    library.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=special, show_progress=False
    )
    library.train_from_iterator(WORDS, trainer)
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", library.token_to_id("<s>"))]
    )
    library.save(str(directory / "tokenizer.json"))
    content = '{"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true}'
    (directory / "tokenizer_config.json").write_text(content)
    return load_tokenizer(directory / "tokenizer.json", "</s>")


CASES = {"gpt2": by_bytes, "llama": with_bos}  # a family, and how it makes its ids


@functools.cache
def write(name, directory):
    """Writes a model as a directory that transformers loads, and returns its path."""
    place = epath.Path(directory)
    (place / "source").mkdir(parents=True)
    tokenizer = CASES[name](place / "source")
    config = dataclasses.replace(FAMILIES[name], vocab_size=tokenizer.vocab_size)
    model = models.build(config)
    params = random_params(model)
    models.save_pretrained(place / "model", model, params, tokenizer=tokenizer, card="")
    return str(place / "model")


PAIRS = [
    ("the end of", " the theory"),
    ("the end of ", "the theory"),  # the space belongs to what follows
    ("Question: what\nAnswer:", " the end\nof the thing"),
    ("Answer:\n", "the thing"),
    ("a naïve", " café"),
    ("", "the theory of"),
    ("the  \n ", " thing"),
    (LONG, " the theory"),  # longer than 64 positions
    ("the", LONG[:60]),
    ("<s>the end", " of"),
]
# The harness fails at these: one token spans both; nothing is left of the context.
BEYOND = [("th", "e"), ("a naïve caf", "é"), (" ", "the end")]
ROLLING = ["the theory", LONG, "a naïve café\n" * 3]
GENERATE = [
    ("the end of", {"until": ["\n"], "max_gen_toks": 12}),
    ("Question: what is", {"until": ["th", "\n"], "max_gen_toks": 9}),
    ("a naïve", {"until": [], "max_gen_toks": 5, "do_sample": False}),
    (LONG, {"until": ["\n"], "max_gen_toks": 6}),
]
ITEMS = [
    {
        "prompt": f"Question: {'what is ' * (n % 5)}the {thing}?\nAnswer:",
        "choices": ["the end", "a theory of the thing", "café", "naïve é"][: 2 + n % 3],
        "answer": n % 2,
    }
    for n in range(12)
    for thing in ("end", "theory")
]


def task(path):
    """Returns the items' file as a task of the harness."""
    return {
        "task": "kdjax_items",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes")],
    }
