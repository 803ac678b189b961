"""The configuration: every key, its default and meaning, and all checks of it."""

from kdjax.config.architecture import ModelConfig, RopeScalingConfig
from kdjax.config.schema import (
    SOURCES,
    CheckpointConfig,
    Config,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    MeshConfig,
    OptimizerConfig,
    Rules,
    ScheduleConfig,
    StudentConfig,
    TeacherConfig,
    TokenizerConfig,
    TrainConfig,
    default,
    teacher,
)
from kdjax.config.validation import validate

__all__ = [
    "SOURCES",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "EvaluateConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RopeScalingConfig",
    "Rules",
    "ScheduleConfig",
    "StudentConfig",
    "TeacherConfig",
    "TokenizerConfig",
    "TrainConfig",
    "default",
    "teacher",
    "validate",
]
