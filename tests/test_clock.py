"""CPU seconds are accounted for once, and to the innermost activity."""

import time

import pytest

from kdjax.core.clock import Clock


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_every_cpu_second_belongs_to_the_innermost_activity():
    clock = Clock()
    with clock("steps"):
        burn(0.05)
        with clock("evaluation"):
            burn(0.1)
            time.sleep(0.2)  # costs nothing
        with pytest.raises(KeyError), clock("saving"):
            burn(0.02)
            raise KeyError
        burn(0.05)
    spent = clock.spent()
    assert spent["evaluation"] == pytest.approx(0.1, abs=0.05)
    assert spent["steps"] == pytest.approx(0.1, abs=0.05)
    assert spent["saving"] == pytest.approx(0.02, abs=0.02)
    assert sum(spent.values()) == pytest.approx(time.process_time(), abs=0.05)
    assert list(spent.values()) == sorted(spent.values(), reverse=True)
