"""tbd."""

import ml_collections

from kdjax.config import default
from kdjax.errors import UsageError

SCARCE = 0.03  # of the training rows


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config; with "scarce" the student sees 3% of the training rows."""
    if argument not in ("", "scarce"):
        raise UsageError(f"gpt_small.py knows the argument 'scarce', not {argument!r}")
    config = default()
    config.teacher.model.update(layers=4, width=192, heads=4, ffn_width=512)
    config.teacher.train.update(steps=600, batch_size=16)
    config.teacher.train.optimizer.learning_rate = 3e-3
    config.student.model.update(layers=2, width=128, heads=4, ffn_width=336)
    config.student.train.update(steps=500, batch_size=8)
    config.student.train.optimizer.learning_rate = 3e-3
    if argument == "scarce":
        config.student.train.data_fraction = SCARCE
    return config
