"""Qwen3 32B as the teacher, a student of Qwen3 4B's architecture.

    python -m kdjax.main --config=configs/qwen3_32b_to_4b.py \
        --config.teacher.path=models/Qwen3-32B \
        --config.tokenizer.path=models/Qwen3-32B \
        --config.data.source=files --config.data.pattern='corpus/**/*.parquet'

Without the first two flags the teacher comes from the Hugging Face hub. The student
starts at random; or else from

    --config.student.path=Qwen/Qwen3-4B                its published weights
    --config=configs/qwen3_32b_to_4b.py:pruned         its teacher's parts

Teacher: 32,762,123,264 parameters in bfloat16. Student: 4,022,468,096, or 4,411,424,256
if it is pruned, for it then has a head of its own, as its teacher has. They are held in
float32 with two moments, and have a gradient: 16 bytes a parameter. That is what a chip
holds between two layers; gathered layers, activations and the loss come on top:

    slice      chips  mesh              GB a chip
    v5e-32        32  data=1 fsdp=32        4.059
    v5e-64        64  data=1 fsdp=64        2.029
    v6e-256      256  data=1 fsdp=256       0.507
    v5p-128       64  data=1 fsdp=64        2.029
    v5p-512      256  data=1 fsdp=256       0.507
    8 x H100       8  data=1 fsdp=8        16.235

On v5e-8 they would leave nothing of a chip's 16 GB. That mesh is the default, fsdp=-1.
A device has one row at a time: the micro-batches follow from batch and devices. With
more than 8 chips, set --config.evaluate.batch_size to their number. The whole plan,
with what the compiler says:

    python -m kdjax.plan --config=configs/qwen3_32b_to_4b.py --topology=v5p:4x4x8
"""

import ml_collections

from kdjax.config import default
from kdjax.core.errors import UsageError

NAME = "Qwen/Qwen3-32B"
QWEN3 = {
    "vocab_size": 151_936,
    "max_length": 40_960,
    "head_width": 128,
    "rope_theta": 1_000_000.0,
    "norm_epsilon": 1e-6,
    "qk_norm": True,
    "dtype": "bfloat16",
}
LARGE = {"layers": 64, "width": 5120, "heads": 64, "kv_heads": 8, "ffn_width": 25_600}
SMALL = {"layers": 36, "width": 2560, "heads": 32, "kv_heads": 8, "ffn_width": 9728}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config; with "pruned" the student is pruned from the teacher."""
    if argument not in ("", "pruned"):
        raise UsageError(f"qwen3_32b_to_4b.py takes 'pruned', not {argument!r}")
    config = default()
    config.data.length = 4096
    config.tokenizer.update(kind="file", path=NAME, end_of_text="<|endoftext|>")
    config.mesh.update(data=1, fsdp=-1)
    config.teacher.path = NAME
    config.teacher.model.update(QWEN3, tie_embeddings=False, **LARGE)
    if argument == "pruned":
        config.student.init = "importance"
        config.student.model.update(SMALL, dtype="bfloat16")
    else:
        config.student.model.update(QWEN3, **SMALL)
    config.student.train.update(steps=20_000, batch_size=512, rows_per_device=1)
    config.student.train.optimizer.update(learning_rate=2e-4, warmup_fraction=0.02)
    config.distill.alpha = 0.9
    config.evaluate.update(every=500, rows=1024, batch_size=8)
    config.checkpoint.every = 1000
    return config
