"""Measures models on text and on questions, side by side.

    python -m kdjax.evaluate --checkpoint=runs/gpt_small --data='held_out/*.txt'
    python -m kdjax.evaluate --checkpoint=runs/x --checkpoint=b.gguf --data=quiz.jsonl
    python -m kdjax.evaluate --checkpoint=runs/x --teacher=large.gguf --data=texts/

Of text: bits/byte, perplexity, accuracy and calibration; with --teacher, how close the
models are to it. Of a .jsonl file of multiple-choice or exact-match items: the share
that is right, with its standard error. docs/evaluate.md tells what an item is.
"""

import time
from typing import Any

from absl import flags
from etils import epath

from kdjax.core import cli
from kdjax.core.buckets import Bucket, is_remote
from kdjax.core.errors import UsageError
from kdjax.core.mirrors import written
from kdjax.core.xla_flags import use_xla_flags

_CHECKPOINT = flags.DEFINE_multi_string(
    "checkpoint",
    [],
    "A model: a run's workdir (for its first student), a directory in it such as "
    "RUN/twin-0, a directory in the Hugging Face format, a .gguf file, or a name on "
    "the Hugging Face hub; may be given several times.",
)
_TEACHER = flags.DEFINE_string(
    "teacher", "", "A model, as above, that the models' predictions are compared with."
)
_DATA = flags.DEFINE_multi_string(
    "data",
    [],
    "Text (a file, a glob or a directory of .txt, .md, .jsonl, .json, .parquet files) "
    "or a .jsonl file of items; may be given several times.",
)
_TASK = flags.DEFINE_enum(
    "task",
    "auto",
    ["auto", "text", "choice", "match"],
    "What the data are; auto: a .jsonl file's first line tells.",
)
_METRIC = flags.DEFINE_multi_string(
    "metric",
    [],
    "Your own metric of a token in text, as package.module:function; may be given "
    "several times.",
)
_TEXT_FIELD = flags.DEFINE_string(
    "text_field", "text", "The field or column of text in .jsonl, .json and .parquet."
)
_UNREADABLE = flags.DEFINE_enum(
    "unreadable",
    "refuse",
    ["refuse", "skip"],
    "What becomes of text that cannot be read.",
)
_LENGTH = flags.DEFINE_integer(
    "length",
    0,
    "Tokens in a row of text; 0: 512, or as many as all models can read.",
    lower_bound=0,
)
_LIMIT = flags.DEFINE_integer(
    "limit", 0, "Only so many documents or items; 0: all.", lower_bound=0
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 16, "Rows at a time, on each device.", lower_bound=1
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "",
    ["", "float32", "bfloat16"],
    "Of parameters and computation; default: as stored.",
)
_PARSE = flags.DEFINE_bool(
    "parse_special_tokens",
    False,
    "Read a token such as </s> in a text as that token, not as text.",
)
_OUTPUT = flags.DEFINE_string("output", "", "A JSON file to write the metrics to.")


def main(argv: list[str]) -> None:
    """Measures what the flags describe."""
    del argv
    if not _CHECKPOINT.value:
        raise UsageError("--checkpoint is missing, such as --checkpoint=runs/gpt_small")
    if not _DATA.value:
        raise UsageError("--data is missing, such as --data=held_out.txt")
    for flag, values in (("checkpoint", _CHECKPOINT.value), ("data", _DATA.value)):
        if twice := [value for value in values if values.count(value) > 1]:
            raise UsageError(f"--{flag}={twice[0]} is given twice")
    output = epath.Path(_OUTPUT.value).expanduser() if _OUTPUT.value else None
    if is_remote(_OUTPUT.value):
        Bucket(_OUTPUT.value)  # raises if a package is missing
    elif output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise UsageError(f"--output={output} must be a file in a directory that exists")
    use_xla_flags()
    # Imported late, so that a mistake is reported before seconds of imports.
    from kdjax.checkpoints import open_model
    from kdjax.config.schema import DataConfig, MeshConfig
    from kdjax.core.files import write_json
    from kdjax.core.logging import say
    from kdjax.evaluation.comparing import Settings, measure, named, table, to_json
    from kdjax.evaluation.items import Items, kind_of, read_items
    from kdjax.evaluation.own_metrics import load_metrics
    from kdjax.parallel.sharding import make_mesh

    own = load_metrics(_METRIC.value, "--metric")
    data: dict[str, DataConfig | Items] = {}
    unreadable: Any = _UNREADABLE.value
    for path in _DATA.value:
        kind: Any = kind_of(path) if _TASK.value == "auto" else _TASK.value
        if kind == "text":
            data[path] = DataConfig(
                source="files",
                pattern=path,
                text_field=_TEXT_FIELD.value,
                unreadable=unreadable,
            )
        else:
            data[path] = read_items(path, kind=kind, limit=_LIMIT.value)
    has_text = any(isinstance(each, DataConfig) for each in data.values())
    _check_used(has_text)
    models = {
        name: open_model(path, named="--checkpoint")
        for name, path in named(_CHECKPOINT.value).items()
    }
    teacher = open_model(_TEACHER.value, named="--teacher") if _TEACHER.value else None
    mesh = make_mesh(MeshConfig())
    settings = Settings(
        mesh,
        _BATCH_SIZE.value * mesh.size,
        _LENGTH.value,
        "parse" if _PARSE.value else "text",
        _DTYPE.value or None,
        _LIMIT.value,
        own,
    )
    started = time.perf_counter()
    try:
        found = measure(models, data, settings, teacher)
    except UsageError as error:
        raise UsageError(_as_flags(str(error))) from None
    say(f"measured in {time.perf_counter() - started:.1f} s, compilation included")
    print(*(table(name, columns) for name, columns in found.items()), sep="\n\n")
    if output is not None:
        with written(_OUTPUT.value, may_exist=True) as path:
            write_json(path, to_json(found, models, teacher), sealed=False)


def _check_used(has_text: bool) -> None:
    """Raises if a flag that was given would do nothing."""
    if has_text:
        return
    for flag in ("teacher", "metric", "text_field", "unreadable", "length"):
        if flags.FLAGS[flag].present:
            raise UsageError(
                f"--{flag} is for text and would do nothing here; remove it, or give "
                "text as --data"
            )


def _as_flags(message: str) -> str:
    """Returns a message about a config's keys in terms of the flags here."""
    for key, flag in (("pattern", "data"), ("text_field", ""), ("unreadable", "")):
        message = message.replace(f"config.data.{key}", f"--{flag or key}")
    return message.replace("config.data.length", "--length")


if __name__ == "__main__":
    cli.run(main)
