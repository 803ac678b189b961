"""A few texts, for people to look at: what a model predicts, and how it writes on."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PassageToken:
    """One token of a text, and what a model that has read up to it predicts there.

    Attributes:
        text: The token's text; "" within a character that a later token completes.
        forward_kl: KL(teacher||model) of the prediction, in nats; None where nothing
            precedes the token, so that nothing is predicted.
        probability: What the model gives this very token, in [0, 1].
        guesses: The model's likeliest texts and their probabilities, likeliest first.
    """

    text: str
    forward_kl: float | None = None
    probability: float = 0.0
    guesses: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Passage:
    """A held-out text through the eyes of one model."""

    tokens: tuple[PassageToken, ...]


@dataclasses.dataclass(frozen=True)
class Continuation:
    """A held-out text and how a model continues it, taking the likeliest token.

    Attributes:
        prompt: The text's beginning.
        expected: How the text itself goes on.
        text: How the model goes on.
    """

    prompt: str
    expected: str
    text: str
