"""An ensemble of two teachers: a student of both, compared with one of each.

    python -m kdjax.main --config=configs/ensemble.py

A wide and a deep teacher, trained on the embedded corpus; the soft targets are the mean
of their probabilities, the wide one's weighted twice. The student of both is compared
with a student of each alone (`member_students`) and with the hard-label twin. As in
`gpt_debug.py`, the models are far too small and too briefly trained for the results to
mean anything.
"""

import ml_collections

from kdjax.config import default, teacher


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = default()
    config.log_every = 2
    config.data.length = 256
    config.tokenizer.kind = "bytes"
    config.teachers = {"wide": teacher(), "deep": teacher()}
    config.teachers.wide.weight = 2.0
    config.teachers.wide.model.update(layers=1, width=48, heads=2)
    config.teachers.deep.model.update(layers=3, width=24, heads=2)
    for member in config.teachers.values():
        member.train.update(steps=40, batch_size=8)
    config.member_students = True
    config.student.model.update(layers=1, width=16, heads=2)
    config.student.train.update(steps=40, batch_size=8)
    config.evaluate.update(every=10, rows=64)
    config.checkpoint.every = 10
    return config
