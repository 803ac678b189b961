"""Gemma 3 12B as the teacher, a student of Gemma 3 1B's architecture.

    python -m kdjax.main --config=configs/gemma3_12b_to_1b.py \
        --config.teacher.path=models/gemma-3-12b-text \
        --config.tokenizer.path=models/gemma-3-12b-text \
        --config.data.source=files --config.data.pattern='corpus/**/*.parquet'

The published 12B holds a vision tower as well: save its text model alone, whose
model_type is gemma3_text. The student starts at random; or else from

    --config.student.path=google/gemma-3-1b-pt         its published weights
    --config=configs/gemma3_12b_to_1b.py:pruned        its teacher's parts

Teacher: 11,766,034,176 parameters in bfloat16. Student: 999,885,952, or 1,015,295,104
if it is pruned, for it then has two key-value heads. They are held in float32 with two
moments, and have a gradient: 16 bytes a parameter. That is what a chip holds between
two layers; gathered layers, activations and the loss come on top:

    slice      chips  mesh              GB a chip
    v5e-8          8  data=1 fsdp=8         4.941
    v5e-64        64  data=1 fsdp=64        0.618
    v6e-256      256  data=2 fsdp=128       0.309
    v5p-128       64  data=1 fsdp=64        0.618
    v5p-512      256  data=2 fsdp=128       0.309
    8 x H100       8  data=1 fsdp=8         4.941

The student's width, 1152, is no multiple of 256: on as many chips, set
--config.mesh.data=2. Otherwise that mesh is the default, fsdp=-1. A device has one row
at a time: the micro-batches follow from batch and devices. With more than 8 chips, set
--config.evaluate.batch_size to their number. The whole plan, with what the compiler
says:

    python -m kdjax.plan --config=configs/gemma3_12b_to_1b.py --topology=v5p:4x4x4
"""

import ml_collections

from kdjax.config import default
from kdjax.core.errors import UsageError

PATH = "models/gemma-3-12b-text"
GEMMA3 = {
    "head_width": 256,
    "rope_theta": 1_000_000.0,
    "local_rope_theta": 10_000.0,
    "query_scalar": 256.0,
    "scale_embeddings": True,
    "norm_epsilon": 1e-6,
    "norm_offset": True,
    "sandwich_norm": True,
    "qk_norm": True,
    "activation": "gelu_tanh",
    "dtype": "bfloat16",
}
LARGE = {"layers": 48, "width": 3840, "heads": 16, "kv_heads": 8, "ffn_width": 15_360}
SMALL = {"layers": 26, "width": 1152, "heads": 4, "kv_heads": 1, "ffn_width": 6912}
# Whole groups of two queries are kept.
PRUNED = SMALL | {"kv_heads": 2}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config; with "pruned" the student is pruned from the teacher."""
    if argument not in ("", "pruned"):
        raise UsageError(f"gemma3_12b_to_1b.py takes 'pruned', not {argument!r}")
    config = default()
    config.data.length = 4096
    config.tokenizer.update(kind="file", path=PATH, end_of_text="<eos>")
    config.mesh.update(data=1, fsdp=-1)
    config.teacher.path = PATH
    config.teacher.model.update(GEMMA3, vocab_size=262_208, max_length=131_072, **LARGE)
    config.teacher.model.windows = (1024,) * 5 + (0,)
    config.teacher.model.rope_scaling.update(kind="linear", factor=8.0)
    if argument == "pruned":
        config.student.init = "importance"
        config.student.model.update(PRUNED, dtype="bfloat16")
    else:
        config.student.model.update(
            GEMMA3, vocab_size=262_144, max_length=32_768, **SMALL
        )
        config.student.model.windows = (512,) * 5 + (0,)
    config.student.train.update(steps=20_000, batch_size=512, rows_per_device=1)
    config.student.train.optimizer.update(learning_rate=3e-4, warmup_fraction=0.02)
    config.distill.alpha = 0.9
    config.evaluate.update(every=500, rows=1024, batch_size=8)
    config.checkpoint.every = 1000
    return config
