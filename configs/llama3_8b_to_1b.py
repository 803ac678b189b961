"""Llama 3.1 8B as the teacher, a student of Llama 3.2 1B's architecture.

    python -m kdjax.main --config=configs/llama3_8b_to_1b.py \
        --config.teacher.path=models/Llama-3.1-8B \
        --config.tokenizer.path=models/Llama-3.1-8B \
        --config.data.source=files --config.data.pattern='corpus/**/*.parquet'

Without the first two flags the teacher comes from the Hugging Face hub, where its
licence must have been accepted. The student starts at random; or else from

    --config.student.path=meta-llama/Llama-3.2-1B      its published weights
    --config=configs/llama3_8b_to_1b.py:pruned         its teacher's parts

Teacher: 8,030,261,248 parameters in bfloat16. Student: 1,235,814,400, or 1,498,482,688
if it is pruned, for it then has a head of its own, as its teacher has. They are held in
float32 with two moments, and have a gradient: 16 bytes a parameter. That is what a chip
holds between two layers; gathered layers, activations and the loss come on top:

    slice      chips  mesh              GB a chip
    v5e-8          8  data=1 fsdp=8         4.479
    v5e-64        64  data=1 fsdp=64        0.560
    v6e-256      256  data=1 fsdp=256       0.140
    v5p-128       64  data=1 fsdp=64        0.560
    v5p-512      256  data=1 fsdp=256       0.140
    8 x H100       8  data=1 fsdp=8         4.479

That mesh is the default, fsdp=-1. A device has one row at a time: the micro-batches
follow from batch and devices. With more than 8 chips, set --config.evaluate.batch_size
to their number. The whole plan, with what the compiler says:

    python -m kdjax.plan --config=configs/llama3_8b_to_1b.py --topology=v5p:4x4x4
"""

import ml_collections

from kdjax.config import default
from kdjax.core.errors import UsageError

NAME = "meta-llama/Llama-3.1-8B"
LLAMA3 = {
    "vocab_size": 128_256,
    "max_length": 131_072,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "kind": "llama3",
        "factor": 8.0,
        "low_factor": 1.0,
        "high_factor": 4.0,
        "original_length": 8192,
    },
    "dtype": "bfloat16",
}
LARGE = {"layers": 32, "width": 4096, "heads": 32, "kv_heads": 8, "ffn_width": 14_336}
SMALL = {"layers": 16, "width": 2048, "heads": 32, "kv_heads": 8, "ffn_width": 8192}
# The width of a head stays the teacher's.
PRUNED = SMALL | {"heads": 16, "kv_heads": 4}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config; with "pruned" the student is pruned from the teacher."""
    if argument not in ("", "pruned"):
        raise UsageError(f"llama3_8b_to_1b.py takes 'pruned', not {argument!r}")
    config = default()
    config.data.length = 4096
    config.tokenizer.update(kind="file", path=NAME, end_of_text="<|end_of_text|>")
    config.mesh.update(data=1, fsdp=-1)
    config.teacher.path = NAME
    config.teacher.model.update(LLAMA3, tie_embeddings=False, **LARGE)
    if argument == "pruned":
        config.student.init = "importance"
        config.student.model.update(PRUNED, dtype="bfloat16")
    else:
        config.student.model.update(LLAMA3, head_width=64, **SMALL)
        config.student.model.rope_scaling.factor = 32.0
    config.student.train.update(steps=20_000, batch_size=512, rows_per_device=1)
    config.student.train.optimizer.update(learning_rate=3e-4, warmup_fraction=0.02)
    config.distill.alpha = 0.9
    config.evaluate.update(every=500, rows=1024, batch_size=8)
    config.checkpoint.every = 1000
    return config
