"""A process that starts again for huge pages is the same process to its user."""

import os
import subprocess
import sys

import pytest
import runs

from kdjax.core import huge_pages

PROGRAM = """
import os, sys
from kdjax.core.huge_pages import use_huge_pages
print("started", os.getpid())
use_huge_pages()
print(sys.argv[1:], sys.prefix, os.environ["GLIBC_TUNABLES"])
"""


def lines_of(**variables):
    env = runs.environment()
    del env["GLIBC_TUNABLES"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "a", "b c", ""],
        env={**env, **variables},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(
    not (huge_pages._is_new_glibc() and huge_pages._is_on_request()),
    reason="this system gives huge pages to all, to none, or has another libc",
)
def test_it_starts_once_more_with_the_same_arguments_and_id():
    first, second, last = lines_of()
    assert first == second  # the process keeps its id
    assert last == f"['a', 'b c', ''] {sys.prefix} glibc.malloc.hugetlb=1"


def test_whoever_has_set_the_variable_is_left_alone():
    assert [line.split()[0] for line in lines_of(GLIBC_TUNABLES="")] == [
        "started",
        "['a',",
    ]


@pytest.mark.parametrize(
    ("libc", "is_new"),
    [("glibc 2.35", True), ("glibc 2.31", False), ("musl 1.2", False), (None, False)],
)
def test_an_older_or_another_libc_is_told_apart(monkeypatch, libc, is_new):
    monkeypatch.setattr(os, "confstr", lambda name: libc)
    assert huge_pages._is_new_glibc() is is_new
