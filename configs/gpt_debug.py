"""Every stage of an experiment in under a minute, for tests and first steps.

    python -m kdjax.main --config=configs/gpt_debug.py

The models are far too small and too briefly trained for the results to mean anything.
"""

import ml_collections

from kdjax.config import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = default()
    config.log_every = 2
    config.data.length = 256
    config.tokenizer.kind = "bytes"
    config.teacher.model.update(layers=2, width=32, heads=2)
    config.teacher.train.update(steps=20, batch_size=8)
    config.student.model.update(layers=1, width=16, heads=2)
    config.student.train.update(steps=20, batch_size=8)
    config.evaluate.update(every=10, rows=64)
    config.checkpoint.every = 10
    return config
