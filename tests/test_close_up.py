"""What is shown of single texts is what the models compute there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import softmax
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from kdjax import models as kdjax_models
from kdjax.config import MeshConfig, ModelConfig, TokenizerConfig
from kdjax.core.metrics import Mean
from kdjax.evaluation.continuations import choose_prompts, continue_prompts
from kdjax.evaluation.entropy import EDGES, buckets, by_entropy
from kdjax.evaluation.passage import choose_text, make_scores, read_passage
from kdjax.generation.decode import Generator
from kdjax.parallel.sharding import make_mesh
from kdjax.targets.online import of_ensemble, of_model
from kdjax.text import TextTokenizer, train_tokenizer
from kdjax.text.pieces import make_pieces, read_along

BYTES = train_tokenizer((), TokenizerConfig(kind="bytes"))


def make_model(size, seed, **changes):
    config = {"layers": 1, "width": 32, "heads": 2, "vocab_size": size, **changes}
    model = kdjax_models.build(ModelConfig(**config))
    params = model.init(jax.random.key(seed))
    return model, jax.tree.map(lambda x: 2.0 * x, params)


def make_rows(count, length, size=40):
    """Returns rows of two documents each, the last row padded."""
    chance = np.random.default_rng(0)
    rows = []
    for number in range(count):
        segments = np.repeat([1, 2], [length // 3, length - length // 3])
        if number == count - 1:
            segments[-2:] = 0
        tokens = chance.integers(1, size, length) * (segments > 0)
        row = {"tokens": tokens, "segments": segments}
        rows.append({name: values.astype(np.int32) for name, values in row.items()})
    return rows


def scores_of(predict, params, text):
    mesh = make_mesh(MeshConfig(data=-1, tensor=2))
    batch = {name: jnp.asarray(values) for name, values in text._asdict().items()}
    return np.asarray(make_scores(predict, text, mesh)(params, batch))


def test_the_passage_is_the_middle_of_the_split_and_no_longer_than_wanted():
    rows = make_rows(7, 12)
    text = choose_text(rows, 20)
    assert text.tokens.tolist() == [row["tokens"].tolist() for row in rows[3:5]]
    assert (text.segments > 0).sum() == 20
    assert (text.segments[1, 8:] == 0).all()
    long = choose_text(rows, 5)
    assert long.tokens.shape == (1, 5)
    assert choose_text(rows, 999).tokens.shape == (7, 12)


def test_every_token_has_the_divergence_and_guesses_of_its_own_position():
    # The teacher has two ids fewer: the KL is over the common ones.
    (student, own), (teacher, taught) = make_model(44, 1), make_model(42, 2)
    text = choose_text(make_rows(3, 12), 20)
    scores = [
        scores_of(of_model(model), params, text)
        for model, params in ((student, own), (teacher, taught))
    ]
    texts = [f"t{number}" for number in range(20)]
    tokens = read_passage(text, texts, *scores, str).tokens
    assert [token.text for token in tokens] == texts
    arguments = jnp.asarray(text.tokens), jnp.asarray(text.segments)
    q_all = softmax(np.asarray(student.logits(own, *arguments)))
    p = softmax(np.asarray(teacher.logits(taught, *arguments)))
    q = q_all[..., :42] / q_all[..., :42].sum(-1, keepdims=True)
    kl = (p * np.log(p / q)).sum(-1)
    shown = iter(tokens)
    starts = 0
    for row, at in np.argwhere(text.segments > 0):
        token = next(shown)
        if at == 0 or text.segments[row, at] != text.segments[row, at - 1]:
            assert token.forward_kl is None and not token.guesses
            starts += 1
            continue
        assert token.forward_kl == pytest.approx(kl[row, at - 1], rel=2e-3)
        label = text.tokens[row, at]
        assert token.probability == pytest.approx(q_all[row, at - 1, label], rel=2e-3)
        order = np.argsort(-q_all[row, at - 1])[:5]
        assert [*token.guesses] == [*map(str, order)]
        top = q_all[row, at - 1, order]
        assert [*token.guesses.values()] == pytest.approx(top, rel=2e-3)
    assert starts == 4 and next(shown, None) is None


def test_an_ensemble_reads_a_passage_with_the_mean_of_its_members():
    members = {name: make_model(40, seed) for seed, name in enumerate("ab")}
    weights = {"a": 1.0, "b": 3.0}
    predict = of_ensemble({n: m for n, (m, _) in members.items()}, weights)
    text = choose_text(make_rows(2, 12), 20)
    found = softmax(scores_of(predict, {n: p for n, (_, p) in members.items()}, text))
    single = [softmax(scores_of(of_model(m), p, text)) for m, p in members.values()]
    np.testing.assert_allclose(found, 0.25 * single[0] + 0.75 * single[1], rtol=1e-4)


def test_guesses_of_the_same_text_are_one():
    text = choose_text([{"tokens": np.array([1, 2]), "segments": np.array([1, 1])}], 2)
    logits = np.log(np.array([[[0.1, 0.3, 0.4, 0.2]] * 2]))
    (_, token) = read_passage(
        text, ["a", "b"], logits, logits, lambda token: "xxyz"[token]
    ).tokens
    assert token.guesses == {"y": 0.4, "x": 0.4, "z": 0.2}
    assert token.forward_kl == 0.0


def test_continuations_are_the_likeliest_tokens_of_whole_forward_passes():
    model, params = make_model(257, 3)
    rows = make_rows(6, 24, size=257)
    prompts = choose_prompts(rows, 3, prompt=6, tokens=5)
    assert len(prompts) == 3 and all(len(p.ids) == 6 for p in prompts)
    assert [p.ids + p.rest for p in prompts] == [
        rows[index]["tokens"][8:][:11].tolist() for index in (1, 3, 5)
    ]
    # Made for other parameters, whose programs are taken over.
    generator = Generator(model, make_model(257, 4)[1]).with_params(params)
    found = continue_prompts(generator, prompts, BYTES, 5)
    begun = [prompt.ids for prompt in prompts]
    made = np.stack([*generator(begun, max_tokens=5, key=jax.random.key(1))], axis=1)
    whole = np.concatenate([np.array(begun), made], axis=1)
    logits = model.logits(params, jnp.asarray(whole))
    np.testing.assert_array_equal(logits.argmax(-1)[:, 5:-1], made)
    for ids, prompt, continuation in zip(made, prompts, found, strict=True):
        stream = BYTES.make_stream(prompt.ids)
        assert continuation.text == "".join(map(stream, ids.tolist()))
        stream = BYTES.make_stream(prompt.ids)
        assert continuation.expected == "".join(map(stream, prompt.rest))


def test_rows_without_text_for_a_prompt_give_none():
    rows = [{"tokens": np.arange(4), "segments": np.array([1, 1, 2, 0])}]
    assert choose_prompts(rows, 3, prompt=6, tokens=5) == []


def test_the_passage_s_texts_join_to_the_document():
    document = "na\u00efve \U0001f600 d\u00e9f\n"
    ids = [*BYTES.encode_prompt(document), BYTES.end_of_text]
    texts = [*read_along(BYTES, ids)]
    assert len(texts) == len(ids)
    assert "".join(texts) == f"{document}<|endoftext|>"
    assert texts[2] == "" and texts[3] == "\u00ef"


def wrap(tokenizer):
    return TextTokenizer(tokenizer, 0, "")


def test_pieces_of_metaspace_and_word_pieces_keep_their_spaces():
    vocab = {"</s>": 0, "\u2581a": 1, "\u2581the": 2, "re": 3, "<0xC3>": 4, "a": 5}
    unigram = Tokenizer(models.BPE(vocab, [], byte_fallback=True))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    unigram.add_special_tokens(["</s>"])
    piece = make_pieces(wrap(unigram))
    assert [piece(token) for token in (2, 3, 4, 0, 9)] == [
        *(" the", "re", "<0xC3>", "</s>", "<9>")
    ]
    # Its letters are bytes elsewhere, but this token is its own text.
    byte_level = Tokenizer.from_str(BYTES.tokenizer.to_str())
    byte_level.add_special_tokens(["<\u00e9>"])
    assert make_pieces(wrap(byte_level))(257) == "<\u00e9>"
    words = {"[UNK]": 0, "a": 1, "the": 2, "##re": 3}
    pieces = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    pieces.decoder = decoders.WordPiece()
    piece = make_pieces(wrap(pieces))
    assert [piece(token) for token in (2, 3)] == [" the", "re"]


def test_buckets_hold_every_token_once_at_its_own_entropy():
    chance = np.random.default_rng(1)
    entropy = np.concatenate([chance.uniform(0, 9, 60), [-1e-7, 0.25, 8.0, 100.0]])
    kl, agreement = chance.uniform(0, 2, 64), chance.integers(0, 2, 64)
    weights = np.append(chance.integers(0, 2, 60), [1, 1, 1, 1])
    arrays = [
        jnp.asarray(values.reshape(4, 16), jnp.float32)
        for values in (entropy, kl, agreement, weights)
    ]
    host: dict[str, Mean] = {**jax.device_get(by_entropy(*arrays))}
    found = buckets(host)["by_entropy"]
    assert not host  # nothing is left to be taken for a plain mean
    assert sum(bucket.count for bucket in found) == weights.sum()
    for bucket in found:
        high = bucket.high or np.inf
        inside = (np.maximum(entropy, 0) >= bucket.low) & (entropy < high)
        inside &= weights > 0
        assert bucket.count == inside.sum()
        assert bucket.forward_kl == pytest.approx(kl[inside].mean(), rel=1e-5)
        assert bucket.agreement == pytest.approx(agreement[inside].mean(), rel=1e-5)
        assert bucket.entropy == pytest.approx(entropy[inside].mean(), rel=1e-5)
    assert [bucket.low for bucket in found] == [*EDGES]
