"""A message as the text in which a model was taught conversations."""

import datetime
import json
from typing import Any

import jinja2
from jinja2 import sandbox

from kdjax.data.tokenizer import TextTokenizer
from kdjax.errors import UsageError

# A template can fail in any way that an expression can.
_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


def encode_message(tokenizer: TextTokenizer, message: str) -> list[int]:
    """Returns the ids of a user's message up to where the answer begins.

    The tokenizer's chat template is rendered as transformers does, in a sandbox, since
    it comes with the weights.

    Raises:
        UsageError: There is no template, it fails, or the message is not Unicode.
    """
    if not tokenizer.chat_template:
        raise UsageError(
            "the model's tokenizer has no chat template; drop --chat, or put a "
            "chat_template.jinja beside its tokenizer.json"
        )
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    first = tokenizer.tokenizer.encode("").tokens
    try:
        text = environment.from_string(tokenizer.chat_template).render(
            messages=[{"role": "user", "content": message}],
            add_generation_prompt=True,
            bos_token=first[0] if first else "",
            eos_token=tokenizer.end_of_text_token,
        )
    except _FAILURES as error:
        raise UsageError(
            f"the tokenizer's chat template fails ({error}); drop --chat"
        ) from None
    # The special tokens that the text needs are in it.
    return tokenizer.encode_prompt(text, add_special_tokens=False)


def _to_json(value: Any, indent: int | None = None) -> str:
    """Returns JSON for a model; jinja's own is escaped for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
