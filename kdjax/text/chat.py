"""A model's chat template and its special tokens."""

import datetime
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2
from etils import epath
from jinja2 import ext, sandbox

from kdjax.core.errors import UsageError


class Chat(NamedTuple):
    """What a tokenizer's files say about conversations.

    Attributes:
        template: The chat template, in Jinja; empty if there is none.
        bos_token: The token with which the template may begin a conversation.
        eos_token: The token that ends an answer; if empty, the end-of-text token does.
    """

    template: str = ""
    bos_token: str = ""
    eos_token: str = ""

    def render(self, message: str) -> str:
        """Returns a user's message as a prompt, up to where the answer begins.

        Renders in a sandbox, as transformers does, because the template comes with the
        weights; this limits what it can access, not how long it runs.

        Raises:
            UsageError: There is no template, or it fails.
        """
        if not self.template:
            raise UsageError(
                "the model's tokenizer has no chat template; drop --chat, or put a "
                "chat_template.jinja beside its tokenizer.json"
            )
        environment = sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            return environment.from_string(self.template).render(
                messages=[{"role": "user", "content": message}],
                add_generation_prompt=True,
                tools=None,
                documents=None,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        # Expressions in a template can raise anything.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"the tokenizer's chat template fails ({reason}); drop --chat"
            ) from None


def read_chat(directory: epath.Path) -> Chat:
    """Returns the chat template of a Hugging Face directory, old layout or new.

    Raises:
        UsageError: `chat_template.jinja` cannot be read.
    """
    newer = directory / "chat_template.jinja"
    config = directory / "tokenizer_config.json"
    try:
        found = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError):
        found = {}
    if not isinstance(found, Mapping):
        found = {}
    template = found.get("chat_template")
    if isinstance(template, list):  # several named templates
        pairs = [item for item in template if isinstance(item, dict)]
        named = {item.get("name"): item.get("template") for item in pairs}
        template = named.get("default")
    if newer.exists():
        try:
            template = newer.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"{newer} cannot be read ({error})") from None
    return Chat(
        template if isinstance(template, str) else "",
        _token(found.get("bos_token")),
        _token(found.get("eos_token")),
    )


def _token(value: Any) -> str:
    """Returns a token's text, which some files wrap in an object."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""


class _Generation(ext.Extension):
    """Ignores the tags around the text that a model is trained to generate."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own convention)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, **options: Any) -> str:
    """Returns plain JSON; jinja's own filter escapes it for HTML."""
    return json.dumps(value, **{"ensure_ascii": False} | options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
