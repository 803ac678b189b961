"""kdjax answers lm-evaluation-harness as the harness's own class does.

`lm_eval.json` holds that class's answers on the same models, loaded by transformers.
"""

import json
import pathlib

import lm_eval_cases as cases
import numpy as np
import pytest
import runs

from kdjax.checkpoints import open_model
from kdjax.config import MeshConfig
from kdjax.core.errors import UsageError
from kdjax.evaluation.evaluators import make_evaluator
from kdjax.evaluation.items import read_items
from kdjax.evaluation.likelihood import Subject, likelihoods
from kdjax.evaluation.pairs import encode_pairs
from kdjax.parallel.sharding import make_mesh

THEIRS = json.loads((pathlib.Path(__file__).parent / "lm_eval.json").read_text())
CLOSE = 1e-3  # nats

every_case = pytest.mark.parametrize("name", cases.CASES)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Returns the path of a case's model."""
    place = tmp_path_factory.mktemp("models")
    return lambda name: cases.write(name, str(place / name))


@pytest.fixture
def items(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in cases.ITEMS))
    return path


@every_case
def test_log_likelihoods_are_those_of_the_harness_on_transformers(path, name):
    stored, mesh = open_model(path(name)), make_mesh(MeshConfig())
    model, params = stored.load(mesh)
    pairs = encode_pairs(stored.tokenizer, cases.PAIRS, "parse")
    subject = Subject.of(model)
    found = likelihoods(subject, params, pairs, mesh=mesh, batch_size=8)
    theirs = THEIRS[name]["pairs"]
    for pair, ours, (log, is_greedy) in zip(cases.PAIRS, found, theirs, strict=True):
        assert abs(ours.log - log) < CLOSE, pair
        assert ours.is_greedy == is_greedy, pair


@every_case
def test_accuracies_are_those_of_the_harness_on_transformers(path, name, items):
    stored, mesh = open_model(path(name)), make_mesh(MeshConfig())
    model, params = stored.load(mesh)
    evaluator = make_evaluator(
        read_items(str(items)), stored.tokenizer, mesh=mesh, batch_size=8
    )
    found = evaluator(Subject.of(model), params)
    assert found == pytest.approx(THEIRS[name]["metrics"])
    assert 0 < found["acc"] < 1  # or else it would prove nothing


@every_case
def test_what_the_harness_cannot_score_is_scored(path, name):
    """A token that spans both texts belongs to the continuation."""
    tokenizer = open_model(path(name)).tokenizer
    for (context, text), pair in zip(
        cases.BEYOND, encode_pairs(tokenizer, cases.BEYOND), strict=True
    ):
        assert pair.context and pair.continuation
        said = tokenizer.decode([*pair.context, *pair.continuation])
        assert said.strip() == (context + text).strip()


class TestLive:
    """Runs where the `harness` extra is installed."""

    @pytest.fixture(autouse=True)
    def needs_lm_eval(self, tmp_path, monkeypatch):
        pytest.importorskip("lm_eval")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    @every_case
    def test_every_kind_of_request_is_answered_as_by_transformers(self, path, name):
        from make_lm_eval_fixtures import answers

        from kdjax.evaluation.harness import KdjaxLM

        found = answers(KdjaxLM(path(name), batch_size=1))
        theirs = THEIRS[name]
        for ours, other in zip(found["pairs"], theirs["pairs"], strict=True):
            assert abs(ours[0] - other[0]) < CLOSE
            assert ours[1] == other[1]
        np.testing.assert_allclose(found["rolling"], theirs["rolling"], rtol=1e-5)
        assert found["generate"] == theirs["generate"]

    @every_case
    def test_a_task_of_one_s_own_gives_the_same_scores(self, path, name, tmp_path):
        from make_lm_eval_fixtures import scores

        from kdjax.evaluation.harness import KdjaxLM

        metrics, logs = scores(KdjaxLM(path(name), batch_size=1), tmp_path)
        assert metrics == pytest.approx(THEIRS[name]["metrics"])
        for ours, theirs in zip(logs, THEIRS[name]["logs"], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=CLOSE)

    def test_transformers_still_answers_so(self, path, tmp_path):
        pytest.importorskip("torch")
        pytest.importorskip("accelerate")
        from make_lm_eval_fixtures import answers, hugging_face, scores

        model = hugging_face(path("llama"))
        found = json.loads(json.dumps(answers(model)))
        metrics, logs = scores(model, tmp_path)
        found |= {"metrics": metrics, "logs": logs}
        assert found["generate"] == THEIRS["llama"]["generate"]
        assert found["metrics"] == pytest.approx(THEIRS["llama"]["metrics"])
        np.testing.assert_allclose(found["rolling"], THEIRS["llama"]["rolling"], 1e-5)

    def test_the_command_line_is_the_harness_s_own(self, path, items, tmp_path):
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / "own.yaml").write_text(json.dumps(cases.task(items)))
        arguments = ("--tasks", "kdjax_items", "--include_path", tmp_path / "tasks")
        said = runs.run(
            *("-m", "kdjax.harness"),
            *("--model_args", f"path={path('gpt2')},batch_size=8"),
            *arguments,
            env=runs.environment(HF_HUB_OFFLINE="1"),
        ).stdout
        assert f"{THEIRS['gpt2']['metrics']['acc']:.4f}" in said
        refused = runs.run(
            *("-m", "kdjax.harness", "--model_args", "path=nowhere", *arguments),
            check=False,
        )
        assert refused.returncode == 2
        assert "error: path=nowhere does not exist" in refused.stderr

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ("path=x,batchsize=8", "has 'batchsize'; did you mean batch_size"),
            ("path=x,device_map=auto", "has 'device_map'; did you mean device"),
            ("path=x,zebra=1", "has 'zebra'; those that exist are path, batch_size, "),
            ("batch_size=8", "has no path"),
            ("path=x,max_length=long", "model_args: max_length must be int"),
            ("path=5", "path=5 does not exist"),  # the harness makes a number of it
        ],
    )
    def test_wrong_arguments_are_one_line(self, arguments, words):
        from kdjax.evaluation.harness import KdjaxLM

        with pytest.raises(UsageError, match=words):
            KdjaxLM.create_from_arg_string(arguments, {"batch_size": 1})

    def test_what_cannot_be_generated_is_refused(self, path):
        from lm_eval.api.instance import Instance

        from kdjax.evaluation.harness import KdjaxLM

        model = KdjaxLM(path("gpt2"), batch_size=1)
        for options, word in [
            ({"num_beams": 4}, "'num_beams'"),
            ({"max_gen_toks": 64}, "no room"),
        ]:
            arguments = "the", {"until": []} | options
            request = Instance("generate_until", {}, arguments, 0)
            with pytest.raises(UsageError, match=word):
                model.generate_until([request])


def test_without_the_harness_one_line_says_what_to_install():
    code = (
        "import sys; sys.modules['lm_eval'] = None; "
        "import runpy; runpy.run_module('kdjax.harness', run_name='__main__')"
    )
    said = runs.run("-c", code, check=False)
    assert said.returncode == 2
    assert "pip install 'kdjax[harness]'" in said.stderr
