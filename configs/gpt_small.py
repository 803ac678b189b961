"""tbd."""

import ml_collections

from kdjax.config import default


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config; "scarce" lets the student see 3% of the training rows."""
    config = default()
    config.teacher.model.update(layers=4, width=192, heads=4, ffn_width=512)
    config.teacher.train.update(steps=500, batch_size=32)
    config.teacher.train.optimizer.learning_rate = 3e-3
    config.student.model.update(layers=2, width=96, heads=4, ffn_width=256)
    config.student.train.update(steps=300, batch_size=32)
    config.student.train.optimizer.learning_rate = 6e-3
    return config
