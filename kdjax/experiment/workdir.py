"""The directory of one experiment: which config owns it, and whether it finished."""

import dataclasses
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from etils import epath

from kdjax.config.parsing import from_mapping, in_line, shown
from kdjax.config.schema import Config
from kdjax.core.buckets import Bucket, is_remote
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json, remove_leftovers, write_json
from kdjax.core.mirrors import drop, kept, local_root
from kdjax.experiment.places import CONFIG, LEASE, commit, not_ours
from kdjax.experiment.plans import raise_steps, read_plans

_DATA = "data.json"
_KEYS = {"teacher", "student", "distill"}  # of every config, of any version
_WRITTEN = (".", "*", "*/model")  # which directories in a workdir hold small files
# Keys that may change between two starts of one experiment: they affect where and how
# long it runs, but no existing result. For the last three, `check_data` tells.
_FREE = (
    "config.mesh",
    "config.seeds",
    "config.baseline",
    "config.member_students",
    "config.cache_dir",
    "config.compile_cache",
    "config.log_every",
    "config.profile",
    "config.wandb",
    "config.evaluate.every",
    "config.checkpoint",
    "config.tokenizer.bos",
    "config.tokenizer.lost_fraction",
    "config.data.special_tokens",
)
_REMAT = ".model.remat"  # of every model
_STEPS = "config.student.train.steps"  # may be raised: students are trained on
FAILED = "failed.json"  # why a point of a sweep failed
LOCK, _OWNER = ".lock", ".lock.owner"
_CLAIM_NOTHING = {FAILED, LOCK, _OWNER, LEASE}


def claim(workdir: epath.Path, config: Config, *, overwrite: bool = False) -> None:
    """Claims the directory for this experiment, or checks that it already owns it.

    Args:
        workdir: The experiment's directory.
        config: The experiment's config.
        overwrite: Whether to delete an experiment found there.

    Raises:
        UsageError: The directory belongs to another config or is not writable.
    """
    wanted = _plain(config)
    try:
        names = _names(workdir)
        found = _experiment(workdir, names, may_be_damaged=overwrite)
        if overwrite and names:
            drop(workdir)
            for path in workdir.iterdir():
                if path.name not in (LOCK, _OWNER):
                    path.rmtree() if path.is_dir() else path.unlink()
        # A config alone, left by a start that failed early, claims nothing.
        elif set(names) > {CONFIG}:
            _check_same(found, wanted, workdir)
            read_plans(workdir, _steps(wanted))  # a damaged one is told of at once
            raise_steps(workdir, _steps(found), _steps(wanted))
        workdir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(workdir, *_WRITTEN)
        write_json(workdir / CONFIG, wanted)
        commit(workdir)
    except OSError as error:
        raise UsageError(
            f"cannot write to {workdir} ({error.strerror}); choose another --workdir"
        ) from None


def is_open(workdir: epath.Path) -> bool:
    """Returns whether a directory is an experiment's or may become one's.

    What is not, `claim` refuses.
    """
    try:
        _experiment(workdir, _names(workdir), may_be_damaged=True)
    except (OSError, UsageError):
        return False
    return True


def check_data(
    workdir: epath.Path, info: dict[str, Any], tasks: Mapping[str, str]
) -> None:
    """Records the data of a new experiment, or checks that it has not changed.

    Args:
        workdir: The experiment's directory.
        info: The metadata of the rows.
        tasks: The hashes of the files of `config.evaluate.tasks`, by their paths.

    Raises:
        UsageError: Text, tokenizer or a task changed since the experiment began.
    """
    wanted = {name: size["sha256"] for name, size in info["splits"].items()}
    wanted |= {"tokenizer": info["tokenizer"]["sha256"]}
    hashes = {f"the task {path}": sha256 for path, sha256 in tasks.items()}
    wanted |= hashes
    spelled = {"special_tokens": info.get("special_tokens", "")}
    wanted |= spelled if any(spelled.values()) else {}
    stored = workdir / _DATA
    if not stored.exists():
        write_json(stored, wanted)
        return
    # Older versions parsed special tokens in texts, and did not say so; nor did they
    # hash tasks.
    parsed = {"special_tokens": "parse"} if "special_tokens" in wanted else {}
    remedy = "restore it, or pass --overwrite to start over"
    found = hashes | parsed | read_json(stored, remedy)
    changed = sorted(k for k in found | wanted if found.get(k) != wanted.get(k))
    if changed:
        is_library = info.get("source") == "stdlib"
        why = " (Python versions differ in their library)" if is_library else ""
        raise UsageError(
            f"{workdir} was started on other data: {', '.join(map(in_line, changed))} "
            f"changed since{why}; choose another --workdir, or pass --overwrite to "
            "start over"
        )
    write_json(stored, wanted)  # with what an older version left out


def finished_report(workdir: epath.Path, config: Config) -> epath.Path | None:
    """Returns the report's path if this same experiment has finished here."""
    try:
        report = read_json(workdir / "report" / "report.json")
    except UsageError:
        return None
    path = workdir / "report" / "report.html"
    same = _completed(report.get("config"), _plain(Config())) == _plain(config)
    return path if same and path.exists() else None


def check_space(directory: epath.Path, needed: int) -> None:
    """Raises unless the directory's file system has `needed` bytes free."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise UsageError(
            f"{directory} has {free / 2**20:.0f} MiB free and the run may need "
            f"{needed / 2**20:.0f} MiB; free some or choose another --workdir"
        )


def cache_directory(config: Config) -> epath.Path:
    """Returns the cache of rows, tokenizers and teachers, shared by experiments."""
    return kept(config.cache_dir) if config.cache_dir else local_root()


def make_cache(config: Config) -> None:
    """Makes the cache directory.

    Raises:
        UsageError: It cannot be made.
    """
    directory = cache_directory(config)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory, "tokenizers", "sizes", "rows/*", "teachers/*")
    except OSError as error:
        raise UsageError(
            f"cannot write to {directory} ({error.strerror}); choose another "
            "config.cache_dir"
        ) from None


def compile_cache(config: Config) -> epath.Path | None:
    """Returns where compiled programs are kept, or None for nowhere."""
    if config.compile_cache == "auto":
        is_far = is_remote(config.cache_dir)
        return (local_root() if is_far else cache_directory(config)) / "compiled"
    path = config.compile_cache
    if is_remote(path):
        Bucket(path)  # raises in one line if a package is missing, as jax would not
    return epath.Path(path).expanduser() if path else None


def differences(found: Any, wanted: Any) -> list[str]:
    """Returns in words how two configs differ that no one experiment can have.

    Args:
        found: The config that is there, as JSON has it; an older one lacks new keys.
        wanted: The config that is wanted.
    """
    return [*_differences(_completed(found, _plain(Config())), wanted)]


def _names(workdir: epath.Path) -> list[str]:
    """Returns the names of what is in the directory and claims it.

    What a killed start has left half written claims nothing.
    """
    there = workdir.iterdir() if workdir.exists() else ()
    names = (path.name for path in there if not path.name.endswith(".tmp"))
    return [name for name in names if name not in _CLAIM_NOTHING]


def _plain(config: Config) -> Any:
    """Returns the config as read back from JSON (with lists for tuples)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _steps(config: Any) -> int:
    return int(config["student"]["train"]["steps"])


def _differences(found: Any, wanted: Any, path: str = "config") -> Iterator[str]:
    if path in _FREE or path.endswith(_REMAT):
        return
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            yield from _differences(found.get(key), wanted.get(key), f"{path}.{key}")
    elif path == _STEPS and found < wanted:
        return
    elif found != wanted:
        yield f"{path} is {shown(found)} there and {shown(wanted)} now"


def _experiment(
    workdir: epath.Path, names: Collection[str], *, may_be_damaged: bool
) -> Any:
    """Returns the config of the experiment in the directory; None: there is none yet.

    Args:
        workdir: The directory.
        names: What it holds.
        may_be_damaged: Whether it is enough that there is an experiment.

    Raises:
        UsageError: It holds something else, or the config is damaged.
    """
    path = workdir / CONFIG
    # Older versions could leave an empty one when the machine stopped.
    if not names or ({*names} == {CONFIG} and not path.stat().length):
        return None
    try:
        found = read_json(path)
        # Model directories have a config.json as well, but with none of these keys.
        if not found.keys() >= _KEYS:
            raise not_ours(workdir)
        found = _completed(found, _plain(Config()))
        from_mapping(Config, found, str(path))
    except UsageError as error:
        if not _is_ours(workdir):
            raise not_ours(workdir) from None
        if may_be_damaged:
            return None
        raise UsageError(
            f"{error}; restore it (with another --workdir, this command writes the "
            "same one), or pass --overwrite to delete what is there"
        ) from None
    return found


def _is_ours(workdir: epath.Path) -> bool:
    """Returns whether a directory whose config is damaged holds an experiment."""
    try:
        return {"train", "tokenizer"} <= read_json(workdir / _DATA).keys()
    except UsageError:
        pass
    try:
        content = (workdir / CONFIG).read_bytes()
    except OSError:
        return False
    return all(f'"{key}":'.encode() in content for key in _KEYS)


def _completed(found: Any, default: Any) -> Any:
    """Returns an older config with defaults for the keys added since."""
    if not isinstance(found, dict) or not isinstance(default, dict):
        return found
    return default | {k: _completed(v, default.get(k)) for k, v in found.items()}


def _check_same(found: Any, wanted: Any, workdir: epath.Path) -> None:
    if changed := list(_differences(found, wanted)):
        raise UsageError(
            f"{workdir} belongs to a different config: {'; '.join(changed)}. "
            "Choose another --workdir, or pass --overwrite to delete what is there"
        )
