"""Makes tests/tokenizers.json: what transformers says of each layout.

    pip install -e '.[interop]' && python tests/make_tokenizer_fixtures.py

For each layout of `tokenizer_layouts.py`: the ids of texts with special tokens parsed
and not parsed, what stands before a text, the tokens with a role, the size of the
vocabulary, and rendered messages with their ids, also of one with control tokens.
"""

import json
import pathlib
import tempfile

import tokenizer_layouts
import transformers

TARGET = pathlib.Path(__file__).parent / "tokenizers.json"


def describe(directory: pathlib.Path) -> dict:
    """Returns what transformers says of the tokenizer in a directory."""
    has_json = (directory / "tokenizer.json").exists()
    kind = "PreTrainedTokenizerFast" if has_json else "AutoTokenizer"
    tokenizer = getattr(transformers, kind).from_pretrained(directory)
    truncation = {"truncation": False, "padding": False}
    plain = {"add_special_tokens": False, **truncation}
    begun = tokenizer("hello", **truncation).input_ids
    mask = tokenizer("hello", return_special_tokens_mask=True, **truncation)
    start = mask.special_tokens_mask.index(0)
    found = {
        "size": len(tokenizer),
        "roles": tokenizer.special_tokens_map,
        "begin": begun[:start],
        "parsed": [tokenizer(t, **plain).input_ids for t in tokenizer_layouts.TEXTS],
        "split": [
            tokenizer(t, split_special_tokens=True, **plain).input_ids
            for t in tokenizer_layouts.TEXTS
        ],
    }
    try:
        found["chats"] = [
            {
                "text": chat(tokenizer, text, tokenize=False),
                "ids": chat(tokenizer, text, return_dict=False),
                "safe": safe(tokenizer, text),
            }
            for text in tokenizer_layouts.MESSAGES
        ]
    except ValueError:  # no template
        found["chats"] = None
    return found


def chat(tokenizer, text: str, **options):
    """Returns a message in its template."""
    messages = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, **options
    )


def safe(tokenizer, text: str) -> list[int] | None:
    """Returns the ids where the message cannot spell control tokens."""
    try:
        return chat(tokenizer, text, sanitize_control_tokens=True, return_dict=False)
    except ValueError:
        return None


def main() -> None:
    """Writes the fixture."""
    found = {}
    for name in tokenizer_layouts.LAYOUTS:
        with tempfile.TemporaryDirectory() as directory:
            tokenizer_layouts.write(name, directory)
            found[name] = describe(pathlib.Path(directory))
    lines = (f"{json.dumps(n)}: {json.dumps(found[n])}" for n in found)
    content = "{\n" + ",\n".join(lines) + "\n}\n"
    TARGET.write_text(content)
    print(f"{len(found)} layouts, {len(content):,} bytes, {transformers.__version__}")


if __name__ == "__main__":
    main()
