"""A model's chat template and its special tokens."""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from jinja2 import ext, sandbox

from kdjax.core.errors import UsageError


class Chat(NamedTuple):
    """What a tokenizer's files say about conversations.

    Attributes:
        template: The chat template, in Jinja; empty if there is none.
        bos_token: The token with which the template may begin a conversation.
        eos_token: The token that ends an answer; if empty, the end-of-text token does.
        tokens: Further tokens by role, such as ("pad_token", "<pad>").
        stops: Ids at which the model should stop as well.
        others: The names of further templates, which are not used.
    """

    template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    tokens: tuple[tuple[str, str], ...] = ()
    stops: tuple[int, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def named(self) -> dict[str, str]:
        """The tokens by role; a role of no token is undefined in the template."""
        roles = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        return {role: token for role, token in roles.items() if token} | dict(
            self.tokens
        )

    def render(self, message: str) -> str:
        """Returns a user's message as a prompt, up to where the answer begins.

        Raises:
            UsageError: There is no template, or it fails.
        """
        return self.render_all([{"role": "user", "content": message}])

    def render_all(
        self, messages: Sequence[Mapping[str, str]], *, answers: bool = True
    ) -> str:
        """Returns a conversation as text.

        Renders in a sandbox, as transformers does, because the template comes with the
        weights; this limits what it can access, not how long it runs.

        Args:
            messages: Each with "role" and "content".
            answers: Whether an answer begins where the text ends; else the text ends
                with the last message, which may be continued.

        Raises:
            UsageError: There is no template, or it fails.
        """
        if not self.template and self.others:
            raise UsageError(
                "the model's tokenizer has no default chat template, only "
                f"{', '.join(self.others)}; put the right one as chat_template.jinja "
                "beside its tokenizer.json"
            )
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
            text = environment.from_string(self.template).render(
                messages=messages,
                add_generation_prompt=answers,
                tools=None,
                documents=None,
                **self.named,
            )
        # Expressions in a template can raise anything.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"the tokenizer's chat template fails ({reason}); drop --chat"
            ) from None
        last = messages[-1]["content"].strip()
        if answers or last not in text:
            return text
        return text[: text.rindex(last) + len(last)]


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
