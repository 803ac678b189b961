"""A chat template from anywhere takes bounded time and memory."""

import time

import pytest

from kdjax.core.errors import UsageError
from kdjax.text import templates
from kdjax.text.chat import Chat

DOUBLED = (
    "{{% set n = namespace(x='ab') %}}{{% for i in range(60) %}}"
    "{{% set n.x = n.x {} n.x %}}{{% endfor %}}{{{{ n.x }}}}"
)
MUCH = "too large a value"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
            "{% endfor %}",
            "runs for more than",
        ),
        (
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
            "{% endmacro %}{{ f(60) }}",
            "runs for more than",
        ),
        ("{% for i in range(99) %}{{ 'x' * 99999 }}{% endfor %}", MUCH),
        (DOUBLED.format("+"), MUCH),
        (DOUBLED.format("~"), MUCH),
        ("{{ 'a' * 10 ** 10 }}", MUCH),
        ("{{ 2 ** (10 ** 10) }}", MUCH),
        ("{{ 'a' | center(10 ** 10) }}", MUCH),
        ("{{ 'a'.ljust(10 ** 10) }}", MUCH),
        ("{{ ('a' * 99999).replace('a', 'b' * 99999) }}", MUCH),
        ("{{ ['a' * 99999] * 99999 }}", MUCH),
        ("{{ [['a' * 999] * 999] * 99 }}", f"{MUCH}|runs for more than"),
        ("{{ (['a' * 99999] * 99999) | join }}", MUCH),
        ("{{ '{:>10000000000}'.format(1) }}", "too large a width"),
        ("{{ '%10000000000d' % 1 }}", "too large a width"),
    ],
)
def test_what_would_take_too_much_is_refused(template, words, monkeypatch):
    monkeypatch.setattr(templates, "_SECONDS", 0.5)
    begun = time.thread_time()
    with pytest.raises(UsageError, match=words) as caught:
        Chat(template).render("hi")
    assert "\n" not in str(caught.value)
    assert time.thread_time() - begun < 4


def test_what_templates_do_is_done_as_before():
    template = (
        "{% for m in messages %}{{ '<|%s|>' % m.role }}{{ m['content'] | trim }}"
        "{{ {'id': 12345678901} | tojson }}{{ '*' * 3 ~ 7 ~ '%5d' % 3 }}{% endfor %}"
        "{% generation %}{{ ['a', 'b'] | join('-') }}{% endgeneration %}"
        "{{ m is defined }}{{ 'aXb'.replace('X', '%s').split('%')[0] }}"
    )
    wanted = '<|user|>hi{"id": 12345678901}***7    3a-bFalsea'
    assert Chat(template).render(" hi ") == wanted
