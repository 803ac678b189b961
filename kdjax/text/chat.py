"""A model's chat template and its special tokens."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kdjax.core.errors import UsageError
from kdjax.text.templates import render


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
        weights.

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
        variables = {
            "messages": messages,
            "add_generation_prompt": answers,
            "tools": None,
            "documents": None,
            **self.named,
        }
        try:
            text = render(self.template, variables)
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
