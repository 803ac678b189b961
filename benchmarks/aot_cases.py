"""The train steps that are compiled for accelerators: models, devices, meshes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdjax.config import default
from kdjax.config.validation import validate
from kdjax.planning.resolve import Subject, resolve
from kdjax.planning.target import parse_target

_LLAMA = {
    "vocab_size": 128_256,
    "kv_heads": 8,
    "rope_theta": 5e5,
    "dtype": "bfloat16",
    "rope_scaling": {"kind": "llama3", "factor": 8.0},
}
_GPT2 = {
    "width": 768,
    "heads": 12,
    "vocab_size": 50_257,
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
}
_QWEN = {
    "heads": 16,
    "kv_heads": 8,
    "head_width": 128,
    "vocab_size": 151_936,
    "qk_norm": True,
    "rope_theta": 1e6,
    "dtype": "bfloat16",
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2 | {"layers": 12},
    "gpt2-half": _GPT2 | {"layers": 6},
    "llama-8b": _LLAMA
    | {"layers": 32, "width": 4096, "heads": 32, "ffn_width": 14336}
    | {"tie_embeddings": False},
    "llama-1b": _LLAMA | {"layers": 16, "width": 2048, "heads": 32, "ffn_width": 8192},
    "llama-0.3b": _LLAMA
    | {"layers": 12, "width": 1024, "heads": 16, "ffn_width": 4096},
    "qwen-1.7b": _QWEN | {"layers": 28, "width": 2048, "ffn_width": 6144},
    "qwen-0.6b": _QWEN | {"layers": 28, "width": 1024, "ffn_width": 3072},
}


class Case(NamedTuple):
    """One train step.

    Attributes:
        target: The devices, as the planner's flags spell them.
        teacher: The name of its model; "": labels alone.
        student: The name of its model.
        rows: Of the global batch.
        length: Tokens in a row.
        mesh: Devices along each axis.
        remat: The student's policy.
        micro: Micro-batches.
        more: Other keys of the config.
    """

    target: str
    teacher: str
    student: str
    rows: int
    length: int
    mesh: Mapping[str, int]
    remat: str = "block"
    micro: int = 1
    more: Mapping[str, Any] = {}


_H, _L, _Q = (
    ("gpt2", "gpt2-half"),
    ("llama-1b", "llama-0.3b"),
    ("qwen-1.7b", "qwen-0.6b"),
)
# Small enough that each compiles in a minute or two; the formula is compared with them.
SMALL = {
    "gpt2 dots": Case("v5e:2x2", *_H, 32, 1024, {"fsdp": 4}, "dots", 8),
    "gpt2 none": Case("v5e:2x2", *_H, 8, 1024, {"data": 4}, "none"),
    "gpt2 block": Case("v5e:2x2", *_H, 32, 1024, {"fsdp": 4}, "block"),
    "gpt2 context": Case(
        "v5e:2x4", *_H, 64, 1024, {"data": 2, "fsdp": 4}, "context", 4
    ),
    "gpt2 tensor": Case("v5e:2x2", *_H, 16, 1024, {"fsdp": 2, "tensor": 2}, "block", 2),
    "llama block": Case("v5e:4x4", *_L, 16, 2048, {"fsdp": 16}),
    "llama context": Case("v6e:2x4", *_L, 32, 4096, {"fsdp": 8}, "context"),
    "llama dots": Case("v6e:2x4", *_L, 32, 2048, {"data": 2, "fsdp": 4}, "dots", 2),
    "llama tensor": Case("v6e:4x4", *_L, 16, 4096, {"fsdp": 4, "tensor": 4}, "block"),
    "llama adafactor": Case(
        *("v5p:2x2x1", *_L, 16, 4096, {"fsdp": 4}, "none", 2),
        {"student.train.optimizer.name": "adafactor"},
    ),
    "qwen block": Case("v5p:2x2x2", *_Q, 32, 4096, {"fsdp": 8}, "block", 2),
    "qwen chunk": Case(
        *("v6e:4x4", *_Q, 32, 8192, {"fsdp": 16}, "context", 1),
        {"student.train.chunk_size": 1024},
    ),
    "gpt2 trained": Case(  # a teacher in float32
        *("v5e:2x2", *_H, 32, 1024, {"fsdp": 4}, "context", 2),
        {"teacher.path": "", "teacher.dtype": ""},
    ),
    "gpt2 h100": Case("8xh100", *_H, 64, 1024, {"fsdp": 8}, "block"),
}
_8B = ("llama-8b", "llama-1b")
# What docs/performance.md reports; minutes each.
LARGE = {
    "gpt2 v5e": Case("v5e:2x2", *_H, 256, 1024, {"data": 4}, "dots", 32),
    "8b-1b v5p 4096": Case("v5p:4x4x4", *_8B, 64, 4096, {"fsdp": 64}),
    "8b-1b v5p 8192": Case("v5p:4x4x4", *_8B, 64, 8192, {"fsdp": 64}),
    "8b-1b v6e 4096": Case("v6e:16x16", *_8B, 256, 4096, {"fsdp": 256}),
    "8b-1b v6e 8192": Case("v6e:16x16", *_8B, 256, 8192, {"fsdp": 256}),
    "8b-1b h100": Case("8xh100", *_8B, 8, 4096, {"fsdp": 8}),
}
CASES = SMALL | LARGE


def subject(case: Case) -> Subject:
    """Returns the case as the planner has it."""
    config = default()
    config.data.length = case.length
    config.mesh.update({"data": 1, "fsdp": 1, "tensor": 1, **case.mesh})
    config.evaluate.batch_size = case.rows
    config.distill.update(alpha=0.5, temperature=2.0)
    for name, model in (("teacher", case.teacher), ("student", case.student)):
        part = config[name]
        part.model.update(MODELS[model or case.student])
        part.train.update(batch_size=case.rows, micro_batches=case.micro)
    config.teacher.dtype = "bfloat16"
    config.teacher.path = "none/here"  # so that its parameters are loaded, not trained
    config.student.model.remat = case.remat
    for key, value in case.more.items():
        config.update_from_flattened_dict({key: value})
    found = resolve(validate(config), parse_target(case.target))
    return found if case.teacher else found._replace(teachers={})
