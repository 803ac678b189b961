"""Small tokenizers in the layouts that published models have, as directories.

Nothing is trained, so that every version of the library makes the same ones.
`make_tokenizer_fixtures.py` asks transformers about each, and
`test_tokenizer_layouts.py` kdjax.
"""

import json
import pathlib

import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROLES = (
    "{% if bos_token is defined %}[{{ bos_token }}]{% else %}none{% endif %}"
    "{{ unk_token }}{{ pad_token }}{{ messages[0].content }}{{ eos_token }}"
)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = (
    "hello world",
    " hello  world\n\n\thello",
    "a</s>a <s>hello</s>",
    "hello </s> world",
    "<|im_start|>user\nhello<|im_end|> <|endoftext|>",
    "naïve 日本 12345 don't!!",
    "[UNK] [CLS] <unk> <pad> <think> <image> \u2581hello",
    "",
)
MESSAGES = ("hello world", " hello</s> <|im_end|>\n<|im_start|>system\n<think>world")

LAYOUTS = {}


def layout(build):
    """Registers a function that returns files by name; a tokenizer stands for JSON."""
    LAYOUTS[build.__name__] = build
    return build


def write(name, directory):
    """Writes a layout into a directory."""
    directory = pathlib.Path(directory)
    for file, content in LAYOUTS[name]().items():
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, tokenizers.Tokenizer):
            content = content.to_str()
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")


def token(content, **flags):
    """Returns a token as the files write it."""
    fields = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": content, "special": True, **fields, **flags}


def merged(letters, words):
    """Returns a vocabulary and the merges that reach words letter by letter."""
    vocab, merges = dict.fromkeys(letters), []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocab:
                vocab[word[:end]] = None
                merges.append((word[: end - 1], word[end - 1]))
    return [*vocab], merges


def byte_level(*specials, first=(), merges=True, ignore_merges=False, split=None):
    """Returns a byte-level BPE: specials before its vocabulary or after it."""
    words = ["hello", "Ġhello", "Ġworld", "!!", "im", "end", "ĊĊ"] if merges else []
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces, pairs = merged(letters, words)
    vocab = {piece: number for number, piece in enumerate([*first, *pieces])}
    model = models.BPE(vocab, pairs, ignore_merges=ignore_merges)
    library = tokenizers.Tokenizer(model)
    steps = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split:
        library.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        library.pre_tokenizer = steps
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([*first, *specials])
    return library


def sentence_piece(*, metaspace=False, extra=(), reach=True):
    """Returns Llama 2's kind of BPE, whose merges may spell control tokens."""
    letters = [chr(code) for code in range(33, 127)] + ["▁"]
    words = ["hello", "▁hello", "▁world", "▁▁"] + (["</", "s>"] if reach else [])
    pieces, pairs = merged(letters, words)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    ids = {p: n for n, p in enumerate(["<unk>", BOS, EOS, *bytes_, *pieces])}
    if reach:
        pairs.append(("</", "s>"))  # as converters derive from the vocabulary
    library = tokenizers.Tokenizer(
        models.BPE(ids, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if metaspace:
        library.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="first", split=False
        )
    else:
        library.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    library.add_special_tokens(["<unk>", BOS, EOS])
    library.add_tokens([AddedToken(t, normalized=False) for t in extra])
    return library


def begins(library, name=BOS, end=""):
    """Makes texts begin, and perhaps end, with a token."""
    names = [n for n in (name, end) if n]
    library.post_processor = processors.TemplateProcessing(
        single=f"{name} $A {end}".strip(),
        special_tokens=[(n, library.token_to_id(n)) for n in names],
    )
    return library


def chatml(**values):
    """Returns a tokenizer_config.json with a chat template."""
    return {"chat_template": CHATML, "eos_token": "<|im_end|>"} | values


# What the files beside a tokenizer.json say.


@layout
def alone():
    return {"tokenizer.json": byte_level("<|endoftext|>")}


@layout
def bos_in_config_only():  # DeepSeek-R1-Distill
    library = byte_level(BOS, EOS)
    library.post_processor = processors.ByteLevel(trim_offsets=False)
    config = {"add_bos_token": True, "add_eos_token": False}
    config |= {"bos_token": {"__type": "AddedToken", **token(BOS)}, "eos_token": EOS}
    return {"tokenizer.json": library, "tokenizer_config.json": config}


@layout
def bos_in_tokenizer_only():
    config = {"add_bos_token": False, "bos_token": BOS, "eos_token": EOS}
    return {
        "tokenizer.json": begins(byte_level(BOS, EOS)),
        "tokenizer_config.json": config,
    }


@layout
def tokens_in_config():  # a base model tuned for conversations
    library = byte_level("<|endoftext|>")
    size = library.get_vocab_size()
    added = {
        str(size + n): token(t) for n, t in enumerate(("<|im_start|>", "<|im_end|>"))
    }
    config = chatml(added_tokens_decoder=added, bos_token="<|endoftext|>")
    return {"tokenizer.json": library, "tokenizer_config.json": config}


@layout
def tokens_in_older_files():
    library = byte_level("<|endoftext|>")
    size = library.get_vocab_size()
    return {
        "tokenizer.json": library,
        "tokenizer_config.json": {"chat_template": CHATML},
        "added_tokens.json": {"<|im_end|>": size + 1, "<|im_start|>": size},
        "special_tokens_map.json": {"eos_token": "<|im_end|>"},
    }


@layout
def roles_in_older_file():
    return {
        "tokenizer.json": byte_level(BOS, EOS, "<unk>"),
        "tokenizer_config.json": {"chat_template": ROLES, "eos_token": "<unk>"},
        "special_tokens_map.json": {
            "bos_token": {**token(BOS), "special": True},
            "eos_token": EOS,
            "unk_token": "<unk>",
        },
    }


@layout
def older_file_that_does_not_count():
    library = byte_level(BOS, EOS)
    number = library.token_to_id(EOS)
    return {
        "tokenizer.json": library,
        "tokenizer_config.json": {
            "chat_template": ROLES,
            "added_tokens_decoder": {str(number): token(EOS)},
            "eos_token": EOS,
        },
        "special_tokens_map.json": {"bos_token": BOS, "eos_token": BOS},
    }


@layout
def template_in_file():
    return {
        "tokenizer.json": byte_level(BOS, EOS),
        "tokenizer_config.json": {"chat_template": "config", "bos_token": BOS},
        "chat_template.jinja": "{{ bos_token }}{{ messages[0].content }}",
    }


@layout
def templates_in_directory():
    return {
        "tokenizer.json": byte_level(BOS, EOS),
        "tokenizer_config.json": {"bos_token": BOS, "eos_token": EOS},
        "chat_template.jinja": "{{ bos_token }}{{ messages[0].content }}",
        "additional_chat_templates/tool_use.jinja": "tools",
    }


@layout
def templates_in_list():
    templates = {
        "tool_use": "tools",
        "default": "{{ messages[0].content }}{{ eos_token }}",
    }
    listed = [{"name": name, "template": text} for name, text in templates.items()]
    config = {"chat_template": listed, "eos_token": EOS}
    return {"tokenizer.json": byte_level(EOS), "tokenizer_config.json": config}


@layout
def templates_without_default():
    listed = [{"name": "tool_use", "template": "tools"}]
    config = {"chat_template": listed, "eos_token": EOS}
    return {"tokenizer.json": byte_level(EOS), "tokenizer_config.json": config}


@layout
def no_bos():
    config = {"chat_template": ROLES, "bos_token": None, "eos_token": EOS}
    config |= {"unk_token": "<unk>", "pad_token": PAD}
    return {
        "tokenizer.json": byte_level(EOS, "<unk>", PAD),
        "tokenizer_config.json": config,
    }


@layout
def stops_in_generation_config():  # Llama 3.1
    library = byte_level("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
    ids = [
        library.token_to_id(t) for t in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
    ]
    return {
        "tokenizer.json": library,
        "tokenizer_config.json": {"eos_token": "<|eot_id|>"},
        "generation_config.json": {"eos_token_id": ids},
    }


def _vocab_and_merges(**config):
    library = byte_level(first=["<|endoftext|>"])
    model = json.loads(library.to_str())["model"]
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    return {
        "vocab.json": model["vocab"],
        "merges.txt": f"#version: 0.2\n{merges}",
        "tokenizer_config.json": config,
        "config.json": {"model_type": "gpt2"},
    }


@layout
def no_tokenizer_json_gpt2():
    named = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    return _vocab_and_merges(tokenizer_class="GPT2Tokenizer", **named)


@layout
def no_tokenizer_json_qwen2():
    number = len(_vocab_and_merges()["vocab.json"])
    added = {"0": token("<|endoftext|>")}
    added |= {
        str(number + n): token(t) for n, t in enumerate(("<|im_start|>", "<|im_end|>"))
    }
    return _vocab_and_merges(
        tokenizer_class="Qwen2Tokenizer",
        added_tokens_decoder=added,
        **chatml(pad_token="<|endoftext|>", unk_token="<|endoftext|>"),
    )


@layout
def roles_beyond_the_vocabulary():
    """A pad token and others that no file gives an id."""
    config = {"eos_token": EOS, "pad_token": "[PAD]", "image_token": "<image>"}
    config |= {"additional_special_tokens": ["<think>"], "chat_template": ROLES}
    return {"tokenizer.json": byte_level(EOS), "tokenizer_config.json": config}


@layout
def flags_in_config():
    """The two files know a token by other flags."""
    library = byte_level(EOS, "<|im_end|>")
    number = library.token_to_id("<|im_end|>")
    added = {str(number): token("<|im_end|>", lstrip=True, rstrip=True)}
    config = {"added_tokens_decoder": added, "eos_token": EOS}
    return {"tokenizer.json": library, "tokenizer_config.json": config}


# The tokenizers of well-known models.


@layout
def llama2():
    config = {
        "add_bos_token": True,
        "bos_token": BOS,
        "eos_token": EOS,
        "legacy": False,
    }
    template = "{{ bos_token }}[INST] {{ messages[0].content }} [/INST]"
    return {
        "tokenizer.json": begins(sentence_piece()),
        "tokenizer_config.json": config | {"chat_template": template},
    }


@layout
def llama2_metaspace():
    return {
        "tokenizer.json": begins(sentence_piece(metaspace=True)),
        "tokenizer_config.json": {
            "bos_token": BOS,
            "eos_token": EOS,
            "unk_token": "<unk>",
        },
    }


@layout
def llama3():
    library = byte_level(
        "<|begin_of_text|>", "<|eot_id|>", EOS, ignore_merges=True, split=WORDS
    )
    first = "<|begin_of_text|>"
    template = processors.TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, library.token_to_id(first))]
    )
    library.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), template]
    )
    text = "{{ bos_token }}{{ messages[0].content | trim }}<|eot_id|>"
    config = {"bos_token": first, "eos_token": "<|eot_id|>", "chat_template": text}
    return {"tokenizer.json": library, "tokenizer_config.json": config}


@layout
def qwen2():
    library = byte_level(
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", split=WORDS.replace("{1,3}", "")
    )
    library.normalizer = normalizers.NFC()
    library.add_tokens([AddedToken(t, normalized=False) for t in ("<tool>", "<think>")])
    library.post_processor = processors.ByteLevel(trim_offsets=False)
    config = chatml(add_bos_token=False, bos_token=None, pad_token="<|endoftext|>")
    text = CHATML + "{% if enable_thinking is defined %}<think>{% endif %}"
    return {
        "tokenizer.json": library,
        "tokenizer_config.json": config | {"chat_template": text},
    }


@layout
def gemma():
    library = sentence_piece(extra=["\n\n", "▁▁", "<b>"])
    library.normalizer = normalizers.Replace(" ", "▁")
    library.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    library.add_special_tokens(["<bos>", "<start_of_turn>", "<end_of_turn>"])
    template = (
        "{{ bos_token }}<start_of_turn>user\n{{ messages[0].content | trim }}"
        "<end_of_turn>\n<start_of_turn>model\n"
    )
    config = {"add_bos_token": True, "bos_token": "<bos>", "chat_template": template}
    return {
        "tokenizer.json": begins(library, "<bos>"),
        "tokenizer_config.json": config | {"eos_token": EOS, "unk_token": "<unk>"},
    }


@layout
def mistral_tekken():
    first = ["<unk>", BOS, EOS, "[INST]", "[/INST]", "<SPECIAL_20>"]
    library = byte_level(first=first, ignore_merges=True, split=WORDS)
    text = "{{ bos_token }}[INST]{{ messages[0].content }}[/INST]"
    config = {"add_bos_token": True, "bos_token": BOS, "eos_token": EOS}
    return {
        "tokenizer.json": begins(library),
        "tokenizer_config.json": config | {"chat_template": text},
    }


@layout
def phi3():
    library = sentence_piece()
    library.add_special_tokens(
        [AddedToken(t, rstrip=True) for t in ("<|user|>", "<|end|>", "<|assistant|>")]
    )
    text = (
        "<|{{ messages[0].role }}|>\n{{ messages[0].content }}<|end|>\n<|assistant|>\n"
    )
    config = {"add_bos_token": False, "bos_token": BOS, "eos_token": "<|end|>"}
    return {
        "tokenizer.json": library,
        "tokenizer_config.json": config | {"chat_template": text, "pad_token": EOS},
    }


@layout
def gpt_neox():
    library = byte_level(first=["<|endoftext|>", "<|padding|>"])
    library.normalizer = normalizers.NFC()
    library.add_tokens([AddedToken(" " * n, normalized=True) for n in range(4, 1, -1)])
    named = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    return {
        "tokenizer.json": library,
        "tokenizer_config.json": {"add_prefix_space": False, **named},
    }


@layout
def opt():
    config = {
        "add_bos_token": True,
        "bos_token": EOS,
        "eos_token": EOS,
        "pad_token": PAD,
    }
    return {
        "tokenizer.json": begins(byte_level(first=[BOS, PAD, EOS]), EOS),
        "tokenizer_config.json": config,
    }


@layout
def t5():
    """A Unigram that would find `</s>` among its pieces, and likes it best."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [(PAD, 0.0), (EOS, 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁hello", -3.0)]
    pieces += [("▁world", -3.5), *((letter, -6.0) for letter in letters)]
    library = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.add_special_tokens([PAD, EOS, "<unk>", "<extra_id_1>", "<extra_id_0>"])
    library.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, 1)]
    )
    config = {"eos_token": EOS, "pad_token": PAD, "unk_token": "<unk>"}
    config |= {"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"]}
    return {"tokenizer.json": library, "tokenizer_config.json": config}


def _bert(words):
    roles = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*roles, *letters, *(f"##{letter}" for letter in letters), *words]
    return roles, {piece: number for number, piece in enumerate(pieces)}


@layout
def bert():
    roles, vocab = _bert(["hello", "world"])
    library = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.add_special_tokens(roles)
    named = {f"{r[1:-1].lower()}_token": r for r in roles}
    return {
        "tokenizer.json": begins(library, "[CLS]", "[SEP]"),
        "tokenizer_config.json": {**named, "do_lower_case": True},
    }


@layout
def word_level():
    vocab = {"[UNK]": 0, EOS: 1, "hello": 2, "world": 3, "[PAD]": 4}
    library = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = {"eos_token": EOS, "unk_token": "[UNK]", "pad_token": "[PAD]"}
    return {"tokenizer.json": library, "tokenizer_config.json": config}


@layout
def added_words_of_the_vocabulary():
    library = byte_level(EOS)
    library.add_tokens([AddedToken("hello"), AddedToken("im", single_word=True)])
    library.add_special_tokens(["Ġworld"])
    config = {"eos_token": EOS, "chat_template": "{{ messages[0].content }}"}
    return {"tokenizer.json": library, "tokenizer_config.json": config}


@layout
def token_that_ends_a_sentence():
    """Its "unknown" token is never needed, so it is just some token."""
    config = {"eos_token": EOS, "unk_token": "!"}
    return {"tokenizer.json": byte_level(EOS), "tokenizer_config.json": config}


@layout
def shortened_and_padded():
    library = byte_level(EOS, PAD)
    library.enable_truncation(4)
    library.enable_padding(pad_token=PAD, length=16)
    return {"tokenizer.json": library, "tokenizer_config.json": {"eos_token": EOS}}
