"""What a config leaves to the devices that it runs on."""

from typing import Literal

from kdjax.config.architecture import ModelConfig
from kdjax.config.schema import TeacherConfig, TrainConfig

Remat = Literal["none", "block", "context", "dots"]


def remat_of(model: ModelConfig, platform: str, *, is_blockwise: bool) -> Remat:
    """Returns what backward recomputes of the layers of a model.

    "auto" recomputes nothing on CPUs, where memory is plentiful and time is not, and
    every layer on accelerators. What blockwise attention has returned is kept there,
    about as large as a layer's input: with it the backward pass needs no second forward
    pass of the kernel, the part of a layer that grows with the square of the length.
    XLA's attention would recompute its scores in any case.

    Args:
        model: The architecture.
        platform: That of the devices, as "cpu" or "tpu".
        is_blockwise: Whether a kernel computes the attention by blocks.
    """
    if model.remat != "auto":
        return model.remat
    if platform == "cpu":
        return "none"
    return "context" if is_blockwise else "block"


def teacher_dtype(teacher: TeacherConfig, platform: str) -> str:
    """Returns the type in which a loaded teacher is held and computed.

    A teacher has no gradients to lose in rounding, and half the bytes are gathered.

    Args:
        teacher: Its config.
        platform: That of the devices.

    Returns:
        The type's name; "": as it is stored.
    """
    if teacher.dtype == "stored":
        return ""
    return teacher.dtype or ("" if platform == "cpu" else "bfloat16")


def micro_batches_of(train: TrainConfig, shards: int) -> int:
    """Returns the parts of a batch that are processed in turn.

    With `rows_per_device` they are the fewest equal ones that give no device more rows
    than that: the same config fills one device and a pod.

    Args:
        train: The training.
        shards: Over how many devices the rows of a batch are sharded.
    """
    most, share = train.rows_per_device, train.batch_size // shards
    if not most:
        return train.micro_batches
    fitting = (n for n in range(1, share) if not share % n and share // n <= most)
    return next(fitting, max(share, 1))
