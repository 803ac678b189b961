"""Questions with known answers, read from a .jsonl file.

A line is an object. Multiple choice: {"prompt", "choices", "answer"}, the answer being
the index of a choice, from 0, or its text. Exact match: {"prompt", "answer"}, the
answer being a text or a list of texts that are all right. "question" may stand for
"prompt". Fields that are not named here or below are left alone.
"""

import glob
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from kdjax.core.errors import UsageError
from kdjax.core.inputs import exists, fetched

Kind = Literal["choice", "match"]
KINDS = ("choice", "match")
_SUFFIXES = (".jsonl", ".ndjson")
_STOP = ("\n",)  # where an answer ends unless the item says otherwise


class Choice(NamedTuple):
    """A multiple-choice question.

    Attributes:
        prompt: What comes before every choice.
        choices: The texts that may follow, with the delimiter before each.
        labels: The same without the delimiter, whose lengths normalise likelihoods.
        answer: The index of the right one.
    """

    prompt: str
    choices: tuple[str, ...]
    labels: tuple[str, ...]
    answer: int


class Match(NamedTuple):
    """A question that is answered in the model's own words.

    Attributes:
        prompt: What the model continues.
        answers: Those that are right, stripped of white space around them.
        stop: Texts that end what the model says.
    """

    prompt: str
    answers: tuple[str, ...]
    stop: tuple[str, ...] = _STOP


class Items(NamedTuple):
    """The questions of one file, all of one kind.

    Attributes:
        name: The file's, without its suffix.
        items: The questions.
    """

    name: str
    items: tuple[Choice, ...] | tuple[Match, ...]


def read_items(path: str, *, kind: Kind | None = None, limit: int = 0) -> Items:
    """Returns the questions in a file.

    Args:
        path: The file.
        kind: What they are; None: what the first one's fields say.
        limit: How many to read, from the first; 0: all.

    Raises:
        UsageError: The file cannot be read or has no questions, or a line is none.
    """
    file = pathlib.Path(fetched(path))
    lines = _lines(file)
    found: list[Any] = []
    for number, line in lines:
        where = f"{path} line {number}"
        values = _object(line, where)
        if kind is None:
            kind = "choice" if "choices" in values else "match"
        found.append(_READ[kind](values, where))
        if len(found) == limit:
            break
    if not found:
        raise UsageError(f"{path} holds no items; a line of it is one, as JSON")
    return Items(file.name.split(".")[0], tuple(found))


def kind_of(path: str) -> Literal["text", "choice", "match"]:
    """Returns what a path holds, as the first line of a .jsonl file says.

    An answer makes items, with choices or without; anything else is text, among it what
    is no .jsonl file or cannot be read.
    """
    if pathlib.PurePath(path).suffix.lower() not in _SUFFIXES or glob.has_magic(path):
        return "text"
    if not exists(path) or not (file := pathlib.Path(fetched(path))).is_file():
        return "text"
    try:
        with file.open(encoding="utf-8-sig") as lines:
            first = json.loads(next((line for line in lines if line.strip()), "null"))
    except (OSError, ValueError, RecursionError):
        return "text"
    if not isinstance(first, dict) or "answer" not in first:
        return "text"
    return "choice" if "choices" in first else "match"


def read_tasks(paths: Sequence[str], key: str) -> list[Items]:
    """Returns the questions in several files.

    Args:
        paths: The files.
        key: The flag or key that names them, for messages.

    Raises:
        UsageError: As for `read_items`, or two files have one name.
    """
    found: dict[str, Items] = {}
    for path in paths:
        try:
            items = read_items(path)
        except UsageError as error:
            raise UsageError(f"{key}: {error}") from None
        if items.name in found:
            raise UsageError(
                f"{key} has two files called {items.name!r}, which their metrics are "
                "named after; rename one"
            )
        found[items.name] = items
    return list(found.values())


def _lines(file: pathlib.Path) -> list[tuple[int, str]]:
    try:
        text = file.read_text("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 (byte {error.start})") from None
    # Not `splitlines`, which also ends lines at characters that JSON strings may hold.
    numbered = enumerate(text.split("\n"), start=1)
    return [(number, line) for number, line in numbered if line.strip()]


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{where} has half a character (an escaped surrogate)"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise UsageError(f"{where} must be an object with a prompt and an answer")
    return values


def _choice(values: dict[str, Any], where: str) -> Choice:
    prompt = _prompt(values, where)
    labels = _texts(values, "choices", where)
    if len(labels) < 2:
        raise UsageError(f"{where}: choices must be two texts or more")
    if empty := [index for index, label in enumerate(labels) if not label.strip()]:
        raise UsageError(f"{where}: choices[{empty[0]}] is empty")
    answer = _answer(values, labels, where)
    joined = tuple(_delimiter(values, prompt, c, where) + c for c in labels)
    return Choice(prompt, joined, labels, answer)


def _answer(values: dict[str, Any], labels: Sequence[str], where: str) -> int:
    answer = values.get("answer")
    if isinstance(answer, str) and list(labels).count(answer) == 1:
        return list(labels).index(answer)
    if type(answer) is int and 0 <= answer < len(labels):
        return answer
    raise UsageError(
        f"{where}: answer must be the index of a choice, 0 to {len(labels) - 1}, or "
        f"the text of exactly one of them; it is {str(answer)[:40]!r}"
    )


def _match(values: dict[str, Any], where: str) -> Match:
    prompt = _prompt(values, where)
    if "choices" in values:
        raise UsageError(
            f"{where} has choices, unlike the first line or --task; a file holds items "
            "of one kind"
        )
    if not prompt.strip():
        raise UsageError(f"{where}: the prompt is empty; give it a text to continue")
    if isinstance(values.get("answer"), str):
        values = values | {"answer": [values["answer"]]}
    answers = tuple(text.strip() for text in _texts(values, "answer", where))
    stop = _texts(values, "stop", where) if "stop" in values else _STOP
    if not answers or not all(answers):
        raise UsageError(
            f"{where}: answer must be a text, or a list of some, not empty"
        )
    if not all(stop):
        raise UsageError(
            f"{where}: stop holds an empty text, which would end every one"
        )
    for answer in answers:
        if ended := [text for text in stop if text in answer]:
            raise UsageError(
                f"{where}: the answer contains {ended[0]!r}, where what the model says "
                'ends; give other texts in "stop"'
            )
    # A trailing space would keep the model from the tokens that begin with one.
    return Match(prompt.rstrip(" "), answers, stop)


def _prompt(values: dict[str, Any], where: str) -> str:
    names = [name for name in ("prompt", "question") if name in values]
    if len(names) != 1:
        what = "both prompt and question" if names else "no prompt"
        raise UsageError(f"{where} has {what}; it needs one, and an answer")
    prompt = values[names[0]]
    if not isinstance(prompt, str):
        raise UsageError(f"{where}: {names[0]} must be a text")
    return prompt


def _texts(values: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    found = values.get(name)
    if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
        raise UsageError(f"{where}: {name} must be a list of texts")
    return tuple(found)


def _delimiter(values: dict[str, Any], prompt: str, choice: str, where: str) -> str:
    """Returns what stands between prompt and choice: a space, unless there is one."""
    if "delimiter" in values:
        if not isinstance(values["delimiter"], str):
            raise UsageError(f"{where}: delimiter must be a text")
        return str(values["delimiter"])
    is_apart = not prompt or prompt[-1].isspace() or choice[0].isspace()
    return "" if is_apart else " "


_READ = {"choice": _choice, "match": _match}
