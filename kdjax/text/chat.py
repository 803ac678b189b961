"""How a model was taught conversations: the template and its tokens."""

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
        template: How messages become text, in Jinja; empty if nobody said.
        bos_token: What the template may let a conversation begin with.
        eos_token: What ends an answer; empty: what ends a document.
    """

    template: str = ""
    bos_token: str = ""
    eos_token: str = ""

    def render(self, message: str) -> str:
        """Returns a user's message as text, up to where the answer begins.

        As transformers does it, in a sandbox, for the template comes with the weights;
        that bounds what it reaches, not how long it takes.

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
        # A template can fail in any way that an expression can.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"the tokenizer's chat template fails ({reason}); drop --chat"
            ) from None


def read_chat(directory: epath.Path) -> Chat:
    """Returns what the files of a Hugging Face directory say, in either spelling.

    Raises:
        UsageError: The template's own file cannot be read.
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
    if isinstance(template, list):  # several, by name
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
    """Returns a token's text, which older files wrap in an object."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""


class _Generation(ext.Extension):
    """Leaves out the marks around what a model shall learn."""

    tags = {"generation"}  # noqa: RUF012 (the library's own way)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, **options: Any) -> str:
    """Returns JSON for a model; jinja's own is escaped for HTML."""
    return json.dumps(value, **{"ensure_ascii": False} | options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
