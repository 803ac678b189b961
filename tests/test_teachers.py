"""A teacher may come from a Hugging Face directory, tokenizer included."""

import dataclasses
import shutil
import types

import jax
import numpy as np
import pytest
import tokenizers
from etils import epath
from runs import experiment, read_report, run
from teachers import architecture_of, load_teacher, make_setting
from toys import random_params

from kdjax import models
from kdjax.checkpoints import native
from kdjax.checkpoints.hf.translate import canonical
from kdjax.config import (
    Config,
    ModelConfig,
    TeacherConfig,
    TokenizerConfig,
    default,
)
from kdjax.config.parsing import from_mapping
from kdjax.config.validation import validate
from kdjax.core.errors import UsageError
from kdjax.experiment.setting import check_vocabularies, make_model
from kdjax.experiment.teachers import _key, plan_teachers
from kdjax.export import export
from kdjax.text import same_ids
from kdjax.text.tokenizer import read_tokenizer, train_tokenizer

BYTES = train_tokenizer((), TokenizerConfig(kind="bytes"))
ARCHITECTURE = ModelConfig(layers=1, width=16, heads=2, vocab_size=257, windows=(9,))


@pytest.fixture
def directory(tmp_path):
    """A Mistral in the Hugging Face format that reads bytes."""
    model = models.build(ARCHITECTURE)
    path = tmp_path / "teacher"
    models.save_pretrained(
        path, model, random_params(model), tokenizer=BYTES, card="# A teacher\n"
    )
    return path


def test_its_architecture_and_parameters_are_those_of_the_files(directory):
    setting = make_setting(directory, BYTES)
    assert architecture_of(setting).layer_windows == (9,)
    teacher = load_teacher(setting)
    expected = random_params(models.build(ARCHITECTURE))
    expected["embed"]["tokens"] = expected["embed"]["tokens"].at[257:].set(0)
    jax.tree.map(np.testing.assert_array_equal, teacher.params, expected)
    config = directory / "config.json"
    config.write_text(config.read_text() + "\n")
    changed = load_teacher(make_setting(directory, BYTES))
    assert changed.sha256 != teacher.sha256


def test_a_cached_teacher_is_another_if_its_training_is_but_not_by_rounding(tmp_path):
    setting = make_setting(tmp_path, BYTES)
    info = {"splits": {"train": {"sha256": "a"}}}
    setting = setting._replace(
        prepared=types.SimpleNamespace(tokenizer=BYTES, info=info)
    )

    def key(**changes):
        config = default()
        config.teacher.update(changes)
        return _key(validate(config).teacher, setting)

    # What a version without those keys has cached is found.
    assert key() == "c57d6bf6d2d64e78"
    for same in ({"model": {"remat": "none"}}, {"train": {"rows_per_device": 8}}):
        assert key(**same) == key()
    rounded = {"train": {"optimizer": {"mu_dtype": "bfloat16"}}}
    assert len({key(), key(**rounded), key(model={"remat": "dots"})}) == 3


@pytest.mark.parametrize("is_own", [False, True])
def test_it_stays_as_it_is_stored_unless_the_config_says(directory, is_own):
    _, params = models.load_pretrained(directory)
    if is_own:
        shutil.rmtree(directory)
        card = {"model": dataclasses.asdict(ARCHITECTURE), "tokenizer": BYTES.sha256}
        card |= {"end_of_text": "<|endoftext|>"}
        directory.mkdir()
        native.save_model(epath.Path(directory), params, card)
    for dtype in ("", "bfloat16"):
        found = load_teacher(make_setting(directory, BYTES, dtype=dtype))
        assert found.model.config.dtype == (dtype or "float32")
        wanted = jax.tree.map(lambda x: x.astype(dtype or x.dtype), params)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, found.params, wanted)
        assert jax.tree.leaves(found.params)[0].dtype == (dtype or "float32")


def test_another_tokenizer_is_refused_with_the_flags_that_mend_it(directory):
    other = train_tokenizer(["a b a b"] * 9, TokenizerConfig(vocab_size=258))
    end = dataclasses.replace(TokenizerConfig(kind="bytes"), end_of_text="</s>")
    for tokenizer in (other, train_tokenizer((), end)):
        with pytest.raises(UsageError, match="has another tokenizer") as caught:
            architecture_of(make_setting(directory, tokenizer))
        flags = f"kind=file --config.tokenizer.path={directory}/tokenizer.json"
        assert flags in str(caught.value)


def test_what_the_data_s_tokenizer_does_beyond_ids_does_not_matter(directory):
    """Such as a token for images, which the published Gemma 3 1B cannot know."""
    library = tokenizers.Tokenizer.from_str(BYTES.tokenizer.to_str())
    library.add_special_tokens(["<image>"])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    setting = make_setting(directory, BYTES._replace(tokenizer=library))
    architecture = architecture_of(setting)

    def make():
        return make_model(architecture, "config.teacher", (), setting, is_trained=False)

    for largest in (256, 257):
        setting.prepared.info = {"splits": {"train": {"largest_id": largest}}}
        if largest < architecture.vocab_size:
            make()
            continue
        with pytest.raises(UsageError, match=r"= 257, and the rows hold ids up to 257"):
            make()


def test_a_student_of_another_vocabulary_is_refused_before_training():
    known = [models.build(ModelConfig(vocab_size=size)) for size in (300, 1324, 1325)]
    check_vocabularies(known[0], known[1], "teacher")
    for student, teacher in ((known[0], known[2]), (known[2], known[0])):
        size = teacher.config.vocab_size
        with pytest.raises(UsageError, match=f"student.model.vocab_size = {size}"):
            check_vocabularies(student, teacher, "teacher")


def test_a_directory_without_a_tokenizer_is_refused_with_the_way_to_write_one(
    directory,
):
    (directory / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"tokenizer\.json is missing.*AutoT"):
        architecture_of(make_setting(directory, BYTES))


def test_a_directory_of_neither_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"teacher\.path must be.*Hugging Face"):
        architecture_of(make_setting(tmp_path, BYTES))


def test_a_student_is_distilled_from_it(directory, texts):
    arguments = experiment(
        *(texts, "run", "--config.baseline=False", "--config.student.train.steps=2"),
        "--config.tokenizer.kind=file",
        f"--config.tokenizer.path={directory}/tokenizer.json",
        f"--config.teacher.path={directory}",
    )
    run(*arguments)
    report = read_report("run")
    assert report["teachers"]["teacher"]["sha256"] == models.fingerprint(directory)
    assert report["teachers"]["teacher"]["formats"] == ["F32"]
    assert report["runs"][0]["final"]["validation"]["agreement"] == 1
    check_export()


def check_export():
    """Writes the student of the finished run, and finds it in the files."""
    run("-m", "kdjax.export", "--workdir=run", "--to=out")
    workdir, out = epath.Path("run"), epath.Path("out")
    card = native.load_card(workdir / "student-0" / "model")
    trained = from_mapping(ModelConfig, card["model"], "model")
    model, params = models.load_pretrained("out")
    assert canonical(model.config) == canonical(trained)
    wanted = native.load_params(workdir / "student-0" / "model", params)
    wanted["embed"]["tokens"] = wanted["embed"]["tokens"].at[257:].set(0)
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    assert "# run: student-0" in (out / "README.md").read_text()
    assert same_ids(read_tokenizer(out / "tokenizer.json"), BYTES)
    run("-m", "kdjax.export", "--workdir=run/student-0", "--to=again")
    same = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {path.name: path.read_bytes() for path in epath.Path("again").iterdir()} == (
        same
    )
    run("-m", "kdjax.export", "--workdir=run", "--to=out.gguf", "--gguf_type=F32")
    file = epath.Path("out.gguf")
    jax.tree.map(np.testing.assert_array_equal, models.load_pretrained(file)[1], wanted)
    assert same_ids(read_tokenizer(file), BYTES)
    for arguments, words in (
        ((workdir, "", file), "out.gguf exists already"),
        ((workdir, "", epath.Path("new.gguf"), "Q3_K"), "one of F32, F16"),
        ((workdir, "", epath.Path("new"), "F16"), "must end in .gguf"),
        ((workdir, "", epath.Path("new.safetensors")), "would be a directory"),
        ((workdir, "", out), "out exists already"),
        ((workdir, "twin-0", out), "--run must be"),
        ((workdir / "student-0", "", out), "out exists already"),
        ((workdir / "student-0", "twin-0", out), "is the run student-0, and --run="),
        ((workdir / "twin-0", "", out), "--run must be"),
        ((epath.Path("nowhere"), "", out), "finished experiment"),
    ):
        with pytest.raises(UsageError, match=words):
            export(*arguments)


@pytest.mark.parametrize(("ids", "is_told"), [(0, False), (1281, False), (1282, True)])
def test_a_new_teacher_with_many_more_ids_than_the_tokenizer_is_told_of(
    tmp_path, capsys, ids, is_told
):
    setting = make_setting(tmp_path, BYTES)
    setting.prepared.info = {"splits": {"train": {"largest_id": 256}}}
    teacher = TeacherConfig(model=dataclasses.replace(ARCHITECTURE, vocab_size=ids))
    setting = setting._replace(config=Config(teacher=teacher))
    plan_teachers({"teacher": None}, setting)
    said = capsys.readouterr().err
    told = "config.teacher.model.vocab_size = 1,282, but the tokenizer has only 257 ids"
    assert (told in said) is is_told
    assert said.count("\n") == is_told
