"""What the benchmark of checkpoints times is what it says, and it ends."""

import pytest

from benchmarks import checkpoint


def test_a_save_is_longer_than_its_parts_and_leaves_nothing(tmp_path):
    found = checkpoint.measure(tmp_path, 0.3, 1)
    parts = found["blocked, seconds"] + found["manifest, seconds"]
    assert found["manifest, seconds"] > 0 and parts < found["save, seconds"]
    assert found["GB"] == pytest.approx(0.3e-3, rel=0.05)
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_killed_training_takes_its_next_step(tmp_path):
    found = checkpoint.restart(tmp_path / "killed", 0.3)
    first, imported = found.values()
    assert 0 < imported < first < 300
