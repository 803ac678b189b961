"""GPT-2 small as the teacher (124M), half its layers as the student.

    python -m kdjax.main --config=configs/gpt2_124m.py \
        --config.data.source=files --config.data.pattern='corpus/**/*.txt' \
        --config.tokenizer.kind=file --config.tokenizer.path=tokenizer.json

The same file works on one accelerator and on a pod: `mesh.data = -1` uses every
available device, and the micro-batches follow from their number, so that none processes
more than 8 rows at a time. The vocabulary is the tokenizer's, whichever it is. Without
the data flags it trains on the embedded corpus with a newly trained tokenizer, which is
far too little text for models of this size.

With GPT-2's own tokenizer, the teacher has 124,475,904 parameters and the student
81,948,672, the padding of their tables included. Of a student's step, every chip holds
the trained teacher in float32 and 16 bytes for each of the student's parameters:

    slice      chips  mesh              GB a chip
    v5e-1          1  data=1 fsdp=1         1.809
    v5e-8          8  data=8 fsdp=1         1.809
    v5e-256      256  data=256 fsdp=1       1.809
    v5p-512      256  data=256 fsdp=1       1.809
    8 x H100       8  data=8 fsdp=1         1.809

With more than 8 chips, set --config.evaluate.batch_size to their number; 256, the rows
of a batch, are the most. The whole plan, with what the compiler says:

    python -m kdjax.plan --config=configs/gpt2_124m.py --topology=v5e:2x4

A test checks shapes and parameter counts; no results are reported for it.
"""

import ml_collections

from kdjax.config import default

GPT2 = {
    "width": 768,
    "heads": 12,
    "vocab_multiple": 128,
    "positions": "learned",
    "max_length": 1024,
    "norm": "layernorm",
    "mlp": "plain",
    "activation": "gelu_tanh",
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
    "dtype": "bfloat16",
    "remat": "dots",
}


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = default()
    config.data.length = 1024
    config.tokenizer.vocab_size = 50_257
    config.teacher.model.update(GPT2, layers=12)
    config.student.model.update(GPT2, layers=6)
    # 8 rows at a time fit in 16 GB.
    config.teacher.train.update(steps=20_000, batch_size=256, rows_per_device=8)
    config.student.train.update(steps=20_000, batch_size=256, rows_per_device=8)
    config.teacher.train.optimizer.update(learning_rate=6e-4, warmup_fraction=0.02)
    config.student.train.optimizer.update(learning_rate=6e-4, warmup_fraction=0.02)
    config.distill.update(alpha=0.5, temperature=2.0)
    config.evaluate.update(every=500, rows=1024, batch_size=8)
    config.checkpoint.every = 1000
    return config
