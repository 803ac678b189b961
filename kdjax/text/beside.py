"""What the files beside a tokenizer.json say, by the rules of transformers.

`tokenizer_config.json` names tokens and lists those added to the vocabulary. Where it
does not list them, an older `special_tokens_map.json` and `added_tokens.json` count.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import tokenizers
from etils import epath
from tokenizers import AddedToken

from kdjax.core.errors import UsageError
from kdjax.core.files import read_json
from kdjax.text.chat import Chat

CONFIG = "tokenizer_config.json"
_ROLES = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class Beside(NamedTuple):
    """The facts about a tokenizer that its own file lacks.

    Attributes:
        chat: The chat template and the tokens with a role, such as "bos_token".
        added: Tokens by the ids that they should have.
        special: Further tokens that no text should reach.
        add_bos: `add_bos_token`, if it is there.
        kind: `tokenizer_class` without the suffix "Fast", if it is there.
        add_prefix_space: Whether the first word gets a space, in the oldest layout.
        is_older: Whether `added` is from a file that knows no flags.
    """

    chat: Chat
    added: dict[int, AddedToken]
    special: tuple[str, ...]
    add_bos: bool | None
    kind: str
    add_prefix_space: bool
    is_older: bool


def read_beside(directory: epath.Path) -> Beside:
    """Returns what the files in a Hugging Face directory say.

    Raises:
        UsageError: One of them is damaged.
    """
    config, source = _optional(directory / CONFIG), str(directory / CONFIG)
    values = dict(config)
    if "added_tokens_decoder" in config:
        listed = config["added_tokens_decoder"]
        if not isinstance(listed, Mapping):
            raise UsageError(f"{source}: added_tokens_decoder must be a mapping")
        added = {_id(n, source): _added(t, source) for n, t in listed.items()}
    else:
        values |= _optional(directory / "special_tokens_map.json")
        source = str(directory / "added_tokens.json")
        older = _optional(directory / "added_tokens.json")
        roles = {*_named(values).values(), *_extra(values)}
        added = {
            _id(number, source): AddedToken(
                token, special=token in roles, normalized=token not in roles
            )
            for token, number in older.items()
        }
    chat, add_bos = _chat(directory, config, _named(values)), None
    if isinstance(stated := values.get("add_bos_token"), bool):
        # Without such a token it cannot be added, which is no contradiction.
        add_bos = stated if chat.bos_token or not stated else None
    return Beside(
        chat=chat,
        added=dict(sorted(added.items())),
        special=tuple(dict.fromkeys(_extra(values))),
        add_bos=add_bos,
        kind=str(config.get("tokenizer_class") or "").removesuffix("Fast"),
        add_prefix_space=config.get("add_prefix_space") is True,
        is_older="added_tokens_decoder" not in config,
    )


def add_tokens(
    tokenizer: tokenizers.Tokenizer, beside: Beside, directory: epath.Path
) -> None:
    """Gives ids to the tokens that only the files beside the tokenizer name.

    Raises:
        UsageError: They have other ids there than the tokenizer can give them.
    """
    found = tokenizer.get_added_tokens_decoder()
    for number, token in beside.added.items():
        is_known = repr(found.get(number)) == repr(token)
        if not is_known and not (beside.is_older and number in found):
            tokenizer.add_tokens([token])
        if (given := tokenizer.token_to_id(token.content)) != number:
            raise UsageError(
                f"{directory} gives {token.content!r} the id {number} in {CONFIG} or "
                f"added_tokens.json, but {given} by tokenizer.json; correct the former"
            )
    roles = (*beside.chat.named.values(), *beside.special)
    new = [name for name in roles if tokenizer.token_to_id(name) is None]
    tokenizer.add_tokens([AddedToken(name, special=True) for name in new])


def _chat(
    directory: epath.Path, config: Mapping[str, Any], named: dict[str, str]
) -> Chat:
    templates = _templates(directory, config)
    generation = _optional(directory / "generation_config.json").get("eos_token_id")
    stops = generation if isinstance(generation, list) else [generation]
    default = templates.get("default")
    return Chat(
        default if isinstance(default, str) else "",
        named.pop("bos_token", ""),
        named.pop("eos_token", ""),
        tokens=tuple(named.items()),
        stops=tuple(n for n in stops if type(n) is int and n >= 0),
        others=tuple(sorted(templates.keys() - {"default"})),
    )


def _templates(directory: epath.Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the chat templates by name; files take the place of the config's."""
    templates: dict[str, Any] = {}
    stored = config.get("chat_template")
    if isinstance(stored, str):
        templates["default"] = stored
    elif isinstance(stored, list):
        pairs = [item for item in stored if isinstance(item, dict)]
        templates = {str(item.get("name")): item.get("template") for item in pairs}
    elif isinstance(stored, Mapping):
        templates = dict(stored)
    files = {}
    if (main := directory / "chat_template.jinja").exists():
        files["default"] = main
    more = directory / "additional_chat_templates"
    if more.is_dir():
        named_files = (file for file in more.iterdir() if file.suffix == ".jinja")
        files |= {file.stem: file for file in sorted(named_files)}
    if files:
        return {name: _text(file) for name, file in files.items()}
    return templates


def _named(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tokens with a role; null gives a role to no token."""
    roles = {key: value for key, value in values.items() if key.endswith("_token")}
    extra = values.get("extra_special_tokens")
    roles |= extra if isinstance(extra, Mapping) else {}
    # The order decides on the ids of those that have none yet.
    ordered = sorted(roles, key=lambda role: (*_ROLES, role).index(role))
    texts = {role: _content(roles[role]) for role in ordered}
    return {role: text for role, text in texts.items() if text}


def _extra(values: Mapping[str, Any]) -> Iterator[str]:
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(listed := values.get(key), list):
            yield from filter(None, map(_content, listed))


def _content(value: Any) -> str:
    """Returns a token's text, which some files wrap in an object."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _added(value: Any, source: str) -> AddedToken:
    text = _content(value)
    flags = {} if isinstance(value, str) else {k: value.get(k, False) for k in _FLAGS}
    if not text or not all(isinstance(flag, bool) for flag in flags.values()):
        raise UsageError(f"{source}: {value!r} in added_tokens_decoder is no token")
    return AddedToken(text, **flags)


def _id(value: Any, source: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UsageError(f"{source}: {value!r} is not the id of a token") from None


def _optional(path: epath.Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _text(path: epath.Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error})") from None
