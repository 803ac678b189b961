"""Models on the Hugging Face hub: from the local cache, or downloaded once.

Only the files that kdjax reads are downloaded: no pickles, and the weights once.
"""

import re
import types
from collections.abc import Collection, Iterable
from typing import NamedTuple

from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.files import read_json
from kdjax.core.logging import say
from kdjax.formats import INDEX, SINGLE

# ORG/NAME or ORG/NAME@REVISION. Suffixes of letters alone are those of files.
_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w.-][\w./-]*))?")
_FILE = re.compile(r"\.[A-Za-z]+$")
_OWN = "runs"  # where kdjax writes, unless told otherwise: never somebody's name

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_MODEL = ("config.json", "generation_config.json", *_TOKENIZER)
_LONGEST = 120  # characters of the reason why a download failed
_PATIENCE = 10.0  # seconds for the hub's first answer


class HubModel(NamedTuple):
    """A model's directory in the local cache of the hub.

    Attributes:
        directory: The directory, which holds the files of one commit.
        name: ORG/NAME@COMMIT.
    """

    directory: epath.Path
    name: str


def is_name(path: str) -> bool:
    """Returns whether a path can only be meant as a name on the hub.

    What exists is a path, and so is what lies in a directory that exists.

    Example:
        >>> is_name("HuggingFaceTB/SmolLM2-135M"), is_name("Qwen/Qwen2.5-0.5B@main")
        (True, True)
        >>> is_name("runs/gpt_small"), is_name("models/x.gguf"), is_name("a/b/c")
        (False, False, False)
    """
    found = _NAME.fullmatch(path)
    if not found or _FILE.search(found[1]) or "--" in found[1] or ".." in found[1]:
        return False
    owner = path.partition("/")[0]
    return owner != _OWN and not epath.Path(path).exists() and not _exists(owner)


def _exists(directory: str) -> bool:
    return epath.Path(directory).exists()


def find_model(name: str, *, named: str) -> HubModel:
    """Returns a model of the hub, downloading what the local cache lacks.

    Args:
        name: ORG/NAME or ORG/NAME@REVISION.
        named: The flag or key that gave the name, for messages.

    Raises:
        UsageError: It is not in the cache and cannot be downloaded, or has no files
            that kdjax can read.
    """
    return _find(name, _MODEL, named, needs_weights=True)


def find_tokenizer(name: str, *, named: str) -> epath.Path:
    """Returns the tokenizer.json of a model of the hub, as `find_model` the model.

    Raises:
        UsageError: It is not in the cache and cannot be downloaded.
    """
    found = _find(name, ("config.json", *_TOKENIZER), named, needs_weights=False)
    return found.directory / "tokenizer.json"


def name_of(directory: epath.Path) -> str:
    """Returns ORG/NAME@COMMIT of a directory in the hub's cache; "" for others."""
    parts = directory.parts[-3:]
    if len(parts) < 3 or parts[1] != "snapshots" or not parts[0].startswith("models--"):
        return ""
    return f"{parts[0].removeprefix('models--').replace('--', '/')}@{parts[2]}"


def _find(
    name: str, files: Collection[str], named: str, *, needs_weights: bool
) -> HubModel:
    match = _NAME.fullmatch(name)
    assert match is not None
    repository, revision = match[1], match[2]
    command = _command(repository, revision, needs_weights)
    try:
        import huggingface_hub as hub
    except ImportError:
        raise UsageError(
            f"{named}={name} does not exist here, and to download it from the hub "
            f"takes huggingface_hub (pip install huggingface_hub); then: {command}"
        ) from None
    cached = _cached(hub, repository, revision)
    if cached is not None and _is_complete(cached, needs_weights):
        return HubModel(cached, name_of(cached))
    try:
        found = _download(hub, repository, revision, files, needs_weights)
    # Of many kinds, from several libraries: no network, no such model, no permission.
    except Exception as error:
        if isinstance(error, UsageError):
            raise UsageError(f"{named}={name}: {error}") from None
        raise UsageError(
            f"{named}={name} is neither here nor in the hub's cache, and cannot be "
            f"downloaded ({_reason(error)}); with a network: {command}"
        ) from None
    return HubModel(found, name_of(found))


def _reason(error: Exception) -> str:
    """Returns why a download failed, shortened to what fits in a line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _command(repository: str, revision: str | None, needs_weights: bool) -> str:
    """Returns what downloads the model by hand."""
    at = f" --revision {revision}" if revision else ""
    names = ["*.json", "*.jinja", *(["model*.safetensors"] if needs_weights else [])]
    included = " ".join(f"--include '{name}'" for name in names)
    target = repository.partition("/")[2]
    return f"hf download {repository}{at} {included} --local-dir {target}"


def _cached(
    hub: types.ModuleType, repository: str, revision: str | None
) -> epath.Path | None:
    """Returns the directory of a model in the local cache, perhaps not complete."""
    # Not by `snapshot_download`, to which a snapshot without all files is incomplete.
    for file in ("config.json", "tokenizer.json"):
        found = hub.try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(found, str):
            return epath.Path(found).parent
    return None


def _is_complete(directory: epath.Path, needs_weights: bool) -> bool:
    """Returns whether a directory of the cache lacks nothing that was asked for."""
    names = {path.name for path in directory.iterdir()}
    if not needs_weights:
        return "tokenizer.json" in names
    if not names >= {"config.json", "tokenizer.json"}:
        return False
    is_sharded = INDEX in names
    return SINGLE in names or (is_sharded and names >= set(_shards(directory / INDEX)))


def _shards(index: epath.Path) -> list[str]:
    """Returns the files that hold a model's weights, by its index."""
    found = read_json(index).get("weight_map")
    return sorted(set(map(str, found.values()))) if isinstance(found, dict) else []


def _download(
    hub: types.ModuleType,
    repository: str,
    revision: str | None,
    files: Collection[str],
    needs_weights: bool,
) -> epath.Path:
    """Downloads what is missing and returns the directory."""
    # Asked once and first, because what downloads repeats its attempts for minutes.
    info = hub.HfApi().model_info(repository, revision=revision, timeout=_PATIENCE)
    published = {sibling.rfilename for sibling in info.siblings or ()}
    wanted = [file for file in files if file in published]
    if needs_weights:
        _check_readable(published)
        wanted += [SINGLE] if SINGLE in published else [INDEX]
    elif "tokenizer.json" not in published:
        raise UsageError("the model has no tokenizer.json")
    say(f"downloading {repository}@{info.sha}")

    def download(names: Iterable[str]) -> epath.Path:
        patterns = list(names)
        return epath.Path(
            hub.snapshot_download(
                repository, revision=revision, allow_patterns=patterns
            )
        )

    directory = download(wanted)
    if needs_weights and SINGLE not in published:
        download([*wanted, *_shards(directory / INDEX)])
    return directory


def _check_readable(published: Collection[str]) -> None:
    """Raises unless the published files hold weights that kdjax reads."""
    if SINGLE in published or INDEX in published:
        return
    if files := sorted(file for file in published if file.endswith(".gguf")):
        raise UsageError(
            f"the model is published as GGUF files; download one of them, such as "
            f"{files[0]}, and give its path"
        )
    raise UsageError(f"the model has neither {SINGLE} nor {INDEX}; choose another")
