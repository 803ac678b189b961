"""Models are measured alike along a run, at its end, and by `kdjax.evaluate`."""

import dataclasses
import itertools
import json
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from etils import epath
from toys import TINY, random_params, write_model

from kdjax import models
from kdjax.checkpoints import open_model
from kdjax.config import DataConfig, MeshConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.data import prepare
from kdjax.data.documents import split_of
from kdjax.evaluation.comparing import Settings, measure, named, table
from kdjax.evaluation.evaluators import make_evaluator
from kdjax.evaluation.held_out import HeldOutText
from kdjax.evaluation.items import kind_of, read_items, read_tasks
from kdjax.evaluation.likelihood import Subject, _batches, likelihoods
from kdjax.evaluation.own_metrics import load_metrics
from kdjax.evaluation.pairs import Pair
from kdjax.losses import Head
from kdjax.parallel.sharding import make_mesh
from kdjax.targets.online import of_ensemble
from kdjax.train.sources import device_batches
from kdjax.train.task import next_token_task

CHOICE = {"prompt": "of", "choices": ["of the", "cats"], "answer": 1}
MATCH = {"prompt": "of", "answer": "x"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models of one tokenizer."""
    place = tmp_path_factory.mktemp("models")
    write_model(place / "one")
    write_model(place / "two", dataclasses.replace(TINY, layers=2))
    return place


def lines(path, *items):
    texts = [item if isinstance(item, str) else json.dumps(item) for item in items]
    path.write_text("\n".join(texts))
    return str(path)


def test_log_likelihoods_are_sums_of_log_softmax_in_any_order_and_batch(place):
    stored, mesh = open_model(place / "one"), make_mesh(MeshConfig())
    model, params = stored.load(mesh)
    rng = np.random.default_rng(0)
    pairs = [
        Pair(*(rng.integers(0, 258, size).tolist() for size in sizes))
        for sizes in [(3, 2), (1, 40), (20, 1), (15, 2), (14, 2), (2, 2)]
    ]
    found = likelihoods(Subject.of(model), params, pairs, mesh=mesh, batch_size=8)
    logits_of = jax.jit(model.logits)
    for (context, continuation), ours in zip(pairs, found, strict=True):
        last = len(context + continuation) - 1
        tokens = jnp.array([context + continuation + [0] * 64])[:, :64]  # one shape
        logits = np.asarray(logits_of(params, tokens), np.float64)
        logits = logits[0, len(context) - 1 : last]
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = sum(
            row[token] for row, token in zip(logs, continuation, strict=True)
        )
        assert ours.log == pytest.approx(expected, abs=1e-3)
        assert ours.is_greedy == (logs.argmax(-1) == continuation).all()


def test_long_texts_come_with_fewer_rows():
    """Or else attention, of which memory grows with the square, would exhaust it."""
    pairs = [Pair([1] * 40, [2])] * 20 + [Pair([1] * 3000, [2])] * 3
    shapes = [batch["tokens"].shape for batch in _batches(pairs, 16, 2, 0)]
    assert shapes == [(16, 64), (16, 64), (2, 4096), (2, 4096)]
    (short,) = _batches([Pair([1] * 3000, [2])], 16, 2, 100)
    assert short["tokens"].shape == (16, 100)
    assert short["counts"].sum() == 1


def test_an_ensemble_is_measured_by_its_mean_probabilities(place, tmp_path):
    stored, mesh = open_model(place / "one"), make_mesh(MeshConfig())
    model, params = stored.load(mesh)
    items = read_items(lines(tmp_path / "q.jsonl", *[CHOICE] * 3))
    evaluator = make_evaluator(items, stored.tokenizer, mesh=mesh, batch_size=8)
    both = {"a": params, "b": params}
    ensemble = Subject(
        of_ensemble({"a": model, "b": model}, {"a": 1.0, "b": 1.0}), (model, model)
    )
    assert evaluator(ensemble, both) == evaluator(Subject.of(model), params)
    # Several models together cannot generate, and no number is made up.
    items = read_items(lines(tmp_path / "m.jsonl", MATCH))
    matching = make_evaluator(items, stored.tokenizer, mesh=mesh, batch_size=8)
    assert matching(ensemble, both) == {}


def test_an_exact_match_is_what_the_model_says_up_to_a_stop_text(place, tmp_path):
    stored, mesh = open_model(place / "one"), make_mesh(MeshConfig())
    model, _ = stored.load(mesh)
    tokenizer = stored.tokenizer
    # After "?" it says "abc" and ends the line, since one token decides on the next.
    order = [tokenizer.encode_prompt(letter)[0] for letter in "?abc\n"]
    logits = np.full((258, 258), -30.0, np.float32)
    for before, after in itertools.pairwise(order):
        logits[before, after] = 30.0

    def decode(params, cache, tokens, positions):
        return jax.nn.one_hot(tokens, 258), cache

    says = model._replace(
        decode=decode,
        init_cache=lambda batch, length: jnp.zeros((batch, length)),
        head=lambda params: Head(params),
    )
    items = read_items(
        lines(
            tmp_path / "m.jsonl",
            {"prompt": "what?", "answer": ["no", " abc "]},
            {"prompt": "what? ", "answer": "abc"},  # its trailing space is dropped
            {"prompt": "what?", "answer": "ab"},
            {"prompt": "what?", "answer": "a", "stop": ["b"]},
            {"prompt": "what?", "answer": "abcd"},
        )
    )
    evaluator = make_evaluator(items, tokenizer, mesh=mesh, batch_size=8)
    found = evaluator(Subject.of(says), jnp.asarray(logits))
    assert found["exact_match"] == pytest.approx(3 / 5)
    assert found["exact_match_stderr"] == pytest.approx(math.sqrt(0.3 / 5))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 must be an object"),
        (
            '{"prompt": "\\ud800", "choices": ["a", "b"], "answer": 0}',
            "half a character",
        ),
        (CHOICE | {"answer": 2}, "answer must be the index of a choice, 0 to 1"),
        (CHOICE | {"answer": True}, "answer must be the index"),
        (CHOICE | {"answer": "B"}, "it is 'B'"),
        (CHOICE | {"choices": ["a"]}, "two texts or more"),
        (CHOICE | {"choices": ["a", " "]}, r"choices\[1\] is empty"),
        (CHOICE | {"choices": "ab"}, "choices must be a list of texts"),
        (CHOICE | {"question": "x"}, "both prompt and question"),
        ({"choices": ["a", "b"], "answer": 0}, "has no prompt"),
        (CHOICE | {"prompt": 1}, "prompt must be a text"),
        (CHOICE | {"delimiter": 1}, "delimiter must be a text"),
        (MATCH, "choices must be a list of texts"),
    ],
    ids=str,
)
def test_what_is_no_multiple_choice_item_is_refused_by_its_line(tmp_path, item, words):
    with pytest.raises(UsageError, match=words):
        read_items(lines(tmp_path / "q.jsonl", CHOICE, item))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (MATCH | {"answer": ""}, "not empty"),
        (MATCH | {"answer": []}, "not empty"),
        (MATCH | {"answer": 4}, "answer must be a list of texts"),
        (MATCH | {"answer": "a\nb"}, r"the answer contains '\\n'"),
        (MATCH | {"stop": [""]}, "stop holds an empty text"),
        (MATCH | {"prompt": " "}, "the prompt is empty"),
        (CHOICE, "has choices, unlike the first line"),
    ],
    ids=str,
)
def test_what_is_no_exact_match_item_is_refused_by_its_line(tmp_path, item, words):
    with pytest.raises(UsageError, match=words):
        read_items(lines(tmp_path / "m.jsonl", MATCH, item))


def test_files_of_items_are_told_from_text_by_their_first_line(tmp_path):
    kinds = {
        "choice": CHOICE,
        "match": MATCH,
        "text": {"text": "x", "prompt": "y"},
    }
    for kind, item in kinds.items():
        assert kind_of(lines(tmp_path / f"{kind}.jsonl", "", item)) == kind
    assert kind_of(lines(tmp_path / "x.txt", CHOICE)) == "text"
    with pytest.raises(UsageError, match="holds no items"):
        read_items(lines(tmp_path / "none.jsonl", ""))
    twice = [lines(tmp_path / "match.jsonl", MATCH)] * 2
    with pytest.raises(UsageError, match="two files called 'match'"):
        read_tasks(twice, "config.evaluate.tasks")


def test_choices_are_told_apart_from_the_prompt_by_one_space(tmp_path):
    items = [
        {"prompt": "a", "choices": ["b", " c"], "answer": "b"},
        {"question": "a\n", "choices": ["b", "c"], "answer": 1, "id": 7},
        {"prompt": "", "choices": ["b", "c"], "answer": 1},
        {"prompt": "a", "choices": ["b", "c"], "answer": 1, "delimiter": ""},
    ]
    read = read_items(lines(tmp_path / "q.jsonl", *items)).items
    assert [item.choices for item in read] == [(" b", " c"), *[("b", "c")] * 3]
    assert [item.answer for item in read] == [0, 1, 1, 1]


OWN = """
import jax.numpy as jnp
def surprise(q, labels, over): return over.cross_entropy(q, labels)
def scalar(q, labels, over): return 1.0
def whole(q, labels, over): return q.probs
def broken(q, labels): return labels
accuracy_of = 3
def agreement(q, labels, over): return labels
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_one.surprise", "must be 'package.module:function'"),
        ("nowhere:surprise", "'nowhere' cannot be imported"),
        ("own_one:missing", "has no function 'missing'"),
        ("own_one:accuracy_of", "has no function"),
        ("own_one:scalar", "one number per token"),
        ("own_one:whole", r"shape \[3, 5\]"),
        ("own_one:broken", r"called as metric\(q, labels, over\)"),
        ("own_one:agreement", "the name 'agreement' is taken"),
    ],
)
def test_what_is_no_metric_is_refused_before_it_is_used(home, name, words):
    (home / "own_one.py").write_text(OWN)
    with pytest.raises(UsageError, match=f"config.evaluate.metrics.*{words}"):
        load_metrics((name,), "config.evaluate.metrics")


def test_columns_are_named_by_what_tells_paths_apart():
    assert list(named(["a/x", "b/x", "c/teacher"])) == ["a/x", "b/x", "c/teacher"]
    assert list(named(["teacher"])) == ["./teacher"]


def test_text_is_measured_as_an_experiment_measures_it(place, home, texts):
    """The rows of its held-out files, and so bits per byte, are the same."""
    data = DataConfig(source="files", pattern=texts, validation_fraction=0.2, length=48)
    bytes_ = TokenizerConfig(kind="bytes")
    prepared = prepare(data, bytes_, epath.Path("cache"))
    (home / "held").mkdir()
    for path in sorted(pathlib.Path("texts").glob("*.txt")):
        if split_of(path.as_posix(), data) == "validation":
            shutil.copy(path, "held")
    config = dataclasses.replace(TINY, vocab_size=257)
    model = models.build(config)
    params = random_params(model)
    models.save_pretrained(
        epath.Path("out"), model, params, tokenizer=prepared.tokenizer, card=""
    )
    settings = Settings(make_mesh(MeshConfig()), batch_size=8, length=48)
    held = DataConfig(source="files", pattern="held")
    stored = open_model("out")
    found = measure({"out": stored}, {"t": held}, settings, stored)["t"]["out"]

    mesh = make_mesh(MeshConfig())
    rows = prepared.splits["validation"]
    report = HeldOutText(
        "validation",
        next_token_task(prepared.bits_per_byte),
        lambda: device_batches(rows, mesh, 8),
    )(Subject.of(model), params)
    assert found["bits_per_byte"] == pytest.approx(report["bits_per_byte"], rel=1e-6)
    assert found["calibration"] == report["calibration"]
    assert found["tokens"] == prepared.info["splits"]["validation"]["tokens"]
    assert found["forward_kl"] == pytest.approx(0, abs=1e-6)
    assert found["agreement"] == 1


def command(*arguments):
    return runs.run("-m", "kdjax.evaluate", *arguments, check=False)


def test_models_are_shown_side_by_side(place, home):
    (home / "own_two.py").write_text(OWN)
    questions = lines(home / "q.jsonl", *[CHOICE] * 3)
    (home / "t.txt").write_text("of the of\n" * 40)
    said = command(
        *(f"--checkpoint={place}/one", f"--checkpoint={place}/two"),
        *(f"--teacher={place}/two", f"--data={questions}", "--data=t.txt"),
        *("--metric=own_two:surprise", "--output=found.json", "--batch_size=2"),
    )
    assert said.returncode == 0, said.stderr
    found = json.loads((home / "found.json").read_text())["metrics"]
    assert list(found["t.txt"]) == ["one", "two", "teacher"]
    for metrics in found["t.txt"].values():
        assert metrics["surprise"] == pytest.approx(metrics["cross_entropy"], rel=1e-5)
    assert found["t.txt"]["two"]["agreement"] == 1
    assert found[questions]["one"]["items"] == 3
    assert f"{found['t.txt']['one']['bits_per_byte']:.4f}" in said.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--checkpoint is missing"),
        (["--checkpoint=x"], "--data is missing"),
        (
            ["--checkpoint=x", "--checkpoint=x", "--data=y"],
            "--checkpoint=x is given twice",
        ),
        (
            ["--checkpoint=x", "--data=y", "--output=no/a.json"],
            "--output=no/a.json must",
        ),
        (["--checkpoint=x", "--data=q.jsonl", "--length=5"], "--length is for text"),
        (["--checkpoint=x", "--data=t.txt", "--metric=a:b"], "--metric: 'a' cannot"),
        (
            ["--checkpoint=x", "--data=t.txt", "--task=choice"],
            "t.txt line 1 is not JSON",
        ),
        (["--checkpoint=x", "--data=t.txt"], "--checkpoint=x does not exist"),
        (["--checkpoint=MODEL", "--data=none.txt"], "--data = 'none.txt' matches no"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(place, home, arguments, words):
    lines(home / "q.jsonl", CHOICE)
    (home / "t.txt").write_text("of the of\n")
    said = command(*(a.replace("MODEL", f"{place}/one") for a in arguments))
    assert said.returncode == 2
    assert f"error: {words}" in said.stderr
    assert said.stderr.splitlines()[-1].startswith("error: ")


def test_a_table_has_a_dash_where_a_model_has_no_number():
    shown = table("t", {"a": {"acc": 0.5, "acc_stderr": 0.1}, "b": {}})
    assert shown.splitlines()[-1].split("↑")[1].split() == ["50.00", "±", "10.00", "-"]


def test_tasks_and_own_metrics_are_measured_along_a_run_and_reported(texts, home):
    (home / "own_three.py").write_text(OWN)
    lines(home / "quiz.jsonl", *[CHOICE | {"prompt": f"{n} and 1"} for n in range(5)])
    lines(home / "say.jsonl", *[MATCH] * 2)
    command = runs.experiment(
        texts,
        "run",
        *("--config.teacher.train.steps=2", "--config.student.train.steps=2"),
        "--config.evaluate.every=1",
        "--config.evaluate.metrics=('own_three:surprise',)",
        "--config.evaluate.tasks=('quiz.jsonl', 'say.jsonl')",
    )
    said = runs.run(*command)
    report = runs.read_report("run")
    student = next(run for run in report["runs"] if run["role"] == "student")
    for run in report["runs"]:
        assert run["tasks"].keys() == {"quiz", "say"}
        for split in run["final"].values():
            assert split["own"]["surprise"] == pytest.approx(split["cross_entropy"])
    assert len(student["curve"]) == 2
    point = student["curve"][-1]
    assert point["others"]["surprise"] == pytest.approx(point["cross_entropy"])
    assert point["others"]["quiz/acc"] == student["tasks"]["quiz"]["acc"]
    assert "quiz/acc_bytes" in said.stdout and "surprise" in said.stdout
    stored = open_model("run")
    items = read_items("quiz.jsonl")
    settings = Settings(make_mesh(MeshConfig()), batch_size=8)
    found = measure({"s": stored}, {"quiz": items}, settings)["quiz"]["s"]
    assert found == student["tasks"]["quiz"] | {"items": 5}
    # A changed task is another experiment; one that is missing costs nothing.
    refused = runs.run(*command[:-1], check=False)
    assert "belongs to a different config: config.evaluate.tasks" in refused.stderr
    with pathlib.Path("say.jsonl").open("a") as more:
        more.write(f"\n{json.dumps(MATCH)}")
    refused = runs.run(*command, "--config.seeds=2", check=False)
    assert "the task say.jsonl changed since; choose" in refused.stderr
    command[-1] = "--config.evaluate.tasks=('none.jsonl',)"
    refused = runs.run(*command, check=False)
    assert refused.returncode == 2
    assert "error: config.evaluate.tasks: none.jsonl does not exist" in refused.stderr
    assert "data:" not in refused.stderr
