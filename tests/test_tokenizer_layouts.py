"""A tokenizer in any published layout is the one that transformers makes of it."""

import functools
import json
import pathlib

import pytest
import tokenizer_layouts
from etils import epath
from tokenizer_layouts import LAYOUTS, MESSAGES, TEXTS

from kdjax.core.errors import UsageError
from kdjax.text import load_tokenizer, read_tokenizer

FIXTURE = pathlib.Path(__file__).parent / "tokenizers.json"
# Where the two files say different things on the BOS token; transformers follows the
# tokenizer.json.
CONTRADICTIONS = {"bos_in_config_only", "bos_in_tokenizer_only"}
# kdjax leaves "!" an ordinary letter, so that "!!" stays one token.
LETTERS = {"token_that_ends_a_sentence"}


@functools.cache
def expected():
    return json.loads(FIXTURE.read_text())


@pytest.fixture
def load(tmp_path):
    def load(name, **options):
        tokenizer_layouts.write(name, tmp_path)
        path = epath.Path(tmp_path / "tokenizer.json")
        file = read_tokenizer(path)
        ends = (file.chat.eos_token, "<|endoftext|>", "</s>", "[SEP]")
        ids = (file.tokenizer.token_to_id(end) for end in ends)
        end = next(number for number in ids if number is not None)
        return load_tokenizer(path, end, **options)

    return load


@pytest.fixture
def loaded(load):
    """Loads a layout; where its files contradict each other, as transformers does."""

    def loaded(name):
        begins = expected()[name]["begin"]
        options = {"bos": "always" if begins else "never"}
        return load(name, **options if name in CONTRADICTIONS else {})

    return loaded


def test_the_fixture_has_every_layout():
    assert expected().keys() == LAYOUTS.keys()
    assert len(LAYOUTS) >= 32


@pytest.mark.parametrize("name", LAYOUTS)
def test_ids_are_those_of_transformers(loaded, name):
    found, tokenizer = expected()[name], loaded(name)
    assert tokenizer.prefix == tuple(found["begin"])
    assert tokenizer.tokenizer.get_vocab_size() == found["size"]
    for text, ids in zip(TEXTS, found["parsed"], strict=True):
        if name in LETTERS and "!!" in text:
            continue
        assert tokenizer.encode_prompt(text, "parse") == [*tokenizer.prefix, *ids], text
        rows = list(tokenizer.encode([text], "parse"))
        assert rows[0].tolist() == [*ids, tokenizer.end_of_text]


@pytest.mark.parametrize("name", LAYOUTS)
def test_text_stays_text(loaded, name):
    """Also where transformers finds a control token in the letters of a text."""
    found, tokenizer = expected()[name], loaded(name)
    controls = {tokenizer.tokenizer.token_to_id(t) for t in tokenizer.encoder.controls}
    unknown = tokenizer.chat.named.get("unk_token", "")  # which texts may need
    controls -= {tokenizer.tokenizer.token_to_id(unknown)}
    rows = list(tokenizer.encode(TEXTS))
    for text, ids, row in zip(TEXTS, found["split"], rows, strict=True):
        own = row.tolist()[:-1]
        assert not controls & set(own), text
        if not controls & set(ids):
            assert own == ids, text
        assert tokenizer.encode_prompt(text) == [*tokenizer.prefix, *own]


@pytest.mark.parametrize("name", LAYOUTS)
def test_messages_are_put_as_transformers_does(loaded, name):
    found, tokenizer = expected()[name], loaded(name)
    chats = found["chats"]
    if chats is None:
        with pytest.raises(UsageError, match="chat template"):
            tokenizer.encode_message("hello")
        return
    controls = {tokenizer.tokenizer.token_to_id(t) for t in tokenizer.encoder.controls}
    written = []
    for message, chat in zip(MESSAGES, chats, strict=True):
        assert tokenizer.chat.render(message) == chat["text"]
        assert tokenizer.encoder.prompt(chat["text"], "parse") == chat["ids"]
        ids = tokenizer.encode_message(message)
        if chat["safe"] is not None:  # else transformers gives up
            assert ids == chat["safe"], tokenizer.tokenizer.decode(ids)
        written.append([number for number in ids if number in controls])
    assert written[0] == written[1]  # the template's own, and none of the message's


def test_stops_are_those_of_all_files(loaded):
    stops = loaded("stops_in_generation_config").stops
    tokenizer = loaded("stops_in_generation_config").tokenizer
    names = [tokenizer.id_to_token(number) for number in stops]
    assert names == ["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"]
    chatml = loaded("tokens_in_config")
    assert chatml.tokenizer.token_to_id("<|im_end|>") in chatml.stops


@pytest.mark.parametrize("name", LAYOUTS)
def test_roles_are_those_of_transformers(loaded, name):
    assert loaded(name).chat.named == expected()[name]["roles"]
