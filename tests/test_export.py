"""What leaves kdjax is loaded by transformers, and comes back to the bit."""

import dataclasses
import json
import pathlib

import interop
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file
from toys import FAMILIES, random_params

from kdjax import models
from kdjax.checkpoints.hf import save as export
from kdjax.checkpoints.hf.translate import canonical, read_config, write_config
from kdjax.config import MeshConfig, ModelConfig, RopeScalingConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.parallel.sharding import make_mesh
from kdjax.text import same_ids
from kdjax.text.chat import Chat
from kdjax.text.tokenizer import load_tokenizer, train_tokenizer

OUTCOMES = pathlib.Path(__file__).parent / "outcomes.json"
FIXTURES = pathlib.Path(__file__).parent / "fixtures"
NAMES = sorted(path.name for path in FIXTURES.iterdir())
CARD = "# A student\n"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

every_family = pytest.mark.parametrize("name", NAMES)


def save(path, model, params, tokenizer=None, **options):
    models.save_pretrained(
        path, model, params, tokenizer=tokenizer, card=CARD, **options
    )


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["the theory of the thing"] * 9
    trained = train_tokenizer(texts, TokenizerConfig(vocab_size=280))
    return trained._replace(chat=Chat(TEMPLATE))


@every_family
def test_in_and_out_and_in_again_changes_no_bit(tmp_path, name):
    model, params = models.load_pretrained(FIXTURES / name)
    save(tmp_path / "out", model, params)
    again, same = models.load_pretrained(tmp_path / "out")
    assert canonical(again.config) == canonical(model.config)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    stored = load_file(FIXTURES / name / "model.safetensors")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == stored.keys()
    for tensor, value in stored.items():
        if "embed_positions" in tensor:  # OPT's two rows that nobody uses
            value[:2] = 0
        np.testing.assert_array_equal(written[tensor], value, err_msg=tensor)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_precisions_come_back_to_the_bit(tmp_path, dtype):
    model, params = models.load_pretrained(FIXTURES / "llama")
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    save(tmp_path / "out", model, params)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    _, same = models.load_pretrained(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert {x.dtype for x in jax.tree.leaves(same)} == {jnp.dtype(dtype)}


def test_several_files_hold_what_one_would(tmp_path):
    model, params = models.load_pretrained(FIXTURES / "gpt2")
    save(tmp_path / "out", model, params, shard_bytes=10_000)
    files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    for file in files:
        assert (tmp_path / "out" / file).stat().st_size < 12_000
    _, same = models.load_pretrained(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_a_sharded_model_is_written_whole(tmp_path):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    model, params = models.load_pretrained(FIXTURES / "llama", mesh=mesh)
    save(tmp_path / "out", model, params)
    _, same = models.load_pretrained(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_what_is_exported_is_what_transformers_was_seen_to_compute():
    """`make_outcomes.py` has compared the logits of all that are not refused."""
    outcomes = json.loads(OUTCOMES.read_text())["exports"]
    configs = interop.random_configs(len(outcomes))
    assert [interop.export_outcome(config) for config in configs] == outcomes
    assert {o for o in outcomes if " " not in o} == interop.FAMILIES.keys()


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_gemma_without_windows_has_one_in_its_file(name):
    """Without it the forward pass of transformers raises, though no layer needs it."""
    config = dataclasses.replace(FAMILIES[name], windows=(0,))
    values = write_config(config)[1]
    assert values["sliding_window"] > 0
    assert set(values["layer_types"]) == {"full_attention"}


def test_heads_need_not_divide_the_width_everywhere():
    config = ModelConfig(width=98, head_width=16, vocab_size=50)
    assert write_config(config)[0].name == "mistral"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_point_that_tests_use_has_an_architecture_in_transformers(name):
    family, values = write_config(FAMILIES[name])
    assert canonical(read_config(values, "")[1]) == canonical(FAMILIES[name])
    wanted = {"neox": "gpt_neox", "gemma3": "gemma3_text"}
    assert family.name == wanted.get(name, name)


@pytest.mark.parametrize(
    ("change", "nearest"),
    [
        ({"rope_fraction": 0.25, "parallel_residual": True}, "parallel_residual"),
        ({"windows": (8, 4)}, "windows"),
        ({"norm": "layernorm"}, "norm"),
        (
            {"width": 98, "head_width": 16, "mlp_bias": True},
            "width (which heads must divide there)",
        ),
        ({"rope_fraction": 0.5}, "rope_fraction"),
        ({"query_scalar": 20.5}, "query_scalar"),
        ({"logit_softcap": 30.0}, "llama, differs in logit_softcap"),
        (
            {
                "rope_scaling": RopeScalingConfig("linear", 2.0),
                "windows": (8, 0),
                "qk_norm": True,
                "local_rope_theta": 5.0,
            },
            "differs in",
        ),
    ],
    ids=str,
)
def test_a_model_that_no_architecture_holds_is_refused_with_what_differs(
    tmp_path, change, nearest
):
    config = dataclasses.replace(ModelConfig(vocab_size=50), **change)
    model = models.build(config)
    with pytest.raises(UsageError, match="no architecture in transformers") as caught:
        save(tmp_path / "out", model, random_params(model))
    assert nearest in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_place_that_is_taken_is_left_alone(tmp_path):
    model, params = models.load_pretrained(FIXTURES / "llama")
    (tmp_path / "mine.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(UsageError, match="exists already"):
            save(path, model, params)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", model, params)
    models.load_pretrained(tmp_path / "empty")


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    model, params = models.load_pretrained(FIXTURES / "llama")

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path / "out", model, params)
    assert not any(tmp_path.iterdir())


def test_the_tokenizer_and_its_chat_template_lie_beside_the_weights(
    tmp_path, tokenizer
):
    model = models.build(ModelConfig(vocab_size=280))
    save(tmp_path / "out", model, random_params(model), tokenizer)
    path = epath.Path(tmp_path / "out" / "tokenizer.json")
    loaded = load_tokenizer(path, "<|endoftext|>")
    assert (loaded.sha256, loaded.chat.template) == (tokenizer.sha256, TEMPLATE)
    assert (tmp_path / "out" / "README.md").read_text() == CARD
    assert same_ids(loaded, tokenizer)
    other = train_tokenizer(["another text"] * 9, TokenizerConfig(vocab_size=280))
    assert not same_ids(loaded, other)


@pytest.mark.parametrize(
    "template", [TEMPLATE, [{"name": "default"}], 3, None], ids=str
)
def test_chat_templates_are_found_in_both_spellings(tmp_path, tokenizer, template):
    path = epath.Path(tmp_path / "tokenizer.json")
    tokenizer.save(path)
    assert load_tokenizer(path, "<|endoftext|>").chat.template == ""
    older = {"chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(older))
    found = load_tokenizer(path, "<|endoftext|>").chat.template
    assert found == (template if isinstance(template, str) else "")
    (tmp_path / "chat_template.jinja").write_text("newer")
    assert load_tokenizer(path, "<|endoftext|>").chat.template == "newer"


class TestTransformers:
    """Runs where the `interop` extra is installed."""

    @pytest.fixture(autouse=True)
    def libraries(self):
        self.torch = pytest.importorskip("torch")
        self.transformers = pytest.importorskip("transformers")

    def logits(self, directory, rows):
        model = self.transformers.AutoModelForCausalLM.from_pretrained(
            directory, attn_implementation="eager", dtype="float32"
        ).eval()
        real = self.torch.tensor(rows["segments"])
        with self.torch.no_grad():
            return model(
                self.torch.tensor(rows["tokens"]).long(),
                attention_mask=real,
                position_ids=(real.cumsum(1) - 1).clamp(min=0),
            ).logits.numpy()

    @every_family
    def test_transformers_finds_the_same_logits_in_what_we_wrote(self, tmp_path, name):
        save(tmp_path / "out", *models.load_pretrained(FIXTURES / name))
        expected = load_file(FIXTURES / name / "expected.safetensors")
        real = expected["segments"] > 0
        found = self.logits(tmp_path / "out", expected)
        np.testing.assert_allclose(found[real], expected["logits"][real], atol=1e-5)

    def random_export(self, tmp_path, number):
        config = interop.random_configs(interop.COUNT)[number]
        if " " in interop.export_outcome(config):
            return
        interop.check_export(config, tmp_path / "out")

    @pytest.mark.parametrize("number", range(len(interop.FAMILIES)))
    def test_transformers_computes_a_random_model_of_each_family(
        self, tmp_path, number
    ):
        self.random_export(tmp_path, number)

    @pytest.mark.slow
    @pytest.mark.parametrize("number", range(len(interop.FAMILIES), interop.COUNT))
    def test_transformers_computes_random_models(self, tmp_path, number):
        self.random_export(tmp_path, number)

    def test_a_student_of_ours_speaks_in_transformers(self, tmp_path, tokenizer):
        model = models.build(ModelConfig(vocab_size=280))
        params = random_params(model)
        save(tmp_path / "out", model, params, tokenizer, shard_bytes=100_000)
        theirs = self.transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
        text = "the theory, then: nothing of the sort"
        ids = theirs(text)["input_ids"]
        assert ids == next(tokenizer.encode([text])).tolist()[:-1]
        assert theirs.eos_token_id == tokenizer.end_of_text
        message = [{"role": "user", "content": "the"}]
        assert theirs.apply_chat_template(message, tokenize=False) == "the"
        rows = {
            "tokens": np.array([ids], np.int32),
            "segments": np.ones((1, len(ids)), np.int32),
        }
        ours = jax.jit(model.logits)(params, rows["tokens"])[..., :280]
        found = self.logits(tmp_path / "out", rows)
        np.testing.assert_allclose(found, ours, atol=2e-4)
        loaded = self.transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "out"
        )
        prompt = self.torch.tensor([ids])
        spoken = loaded.generate(prompt, max_new_tokens=4, do_sample=False)
        assert spoken.shape[1] > len(ids)
        assert int(spoken[0, len(ids)]) == int(np.argmax(ours[0, -1]))
