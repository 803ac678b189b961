"""What an experiment could have measured, for the tests of its report."""

import copy

from kdjax import config

BINS = [
    {"confidence": 0.25, "accuracy": 0.2, "count": 30},
    {"confidence": 0.0, "accuracy": 0.0, "count": 0},
    {"confidence": 0.85, "accuracy": 0.7, "count": 10},
]
SIZES = {
    "documents": 3,
    "bytes": 9_000,
    "tokens": 4_000,
    "rows": 31,
    "sha256": "ab" * 32,
}


def make_run(role, seed, bits_per_byte):
    def final(value):
        return {
            "cross_entropy": 1.75 * value,
            "bits_per_byte": value,
            "forward_kl": 0.3,
            "reverse_kl": 0.4,
            "agreement": 0.71,
            "acceptance": 0.66,
            "calibration_error": 0.025,
            "calibration": copy.deepcopy(BINS),
        }

    curve = [(0, 8.0), (50, bits_per_byte + 0.5), (100, bits_per_byte + 0.01)]
    return {
        "role": role,
        "seed": seed,
        "curve": [
            {"step": step, "bits_per_byte": value, "cross_entropy": 1.75 * value}
            for step, value in curve
        ],
        "final": {
            "validation": final(bits_per_byte),
            "prose": final(bits_per_byte + 1),
        },
        "training": {
            "steps": 100,
            "tokens_per_second": 41_234.0 + seed,
            "mfu": None,
            "skipped_steps": 0,
        },
    }


def make_results(*, student, twin=(), teacher=1.0):
    runs = [make_run("teacher", 0, teacher)]
    for role, scores in (("student", student), ("twin", twin)):
        runs += [make_run(role, seed, score) for seed, score in enumerate(scores)]
    return {
        "created": "2026-11-22T04:00:00+00:00",
        "workdir": "runs/gpt_small",
        "config": config.default().to_dict(),
        "environment": {
            "python": "3.11.7",
            "jax": "0.10.2",
            "platform": "cpu",
            "device": "cpu",
            "devices": 1,
            "processes": 1,
        },
        "data": {
            "source": "stdlib",
            "length": 128,
            "python": "3.11.7",
            "skipped_files": 0,
            "tokenizer": {"kind": "bpe", "vocab_size": 1024, "sha256": "cd" * 32},
            "splits": {name: SIZES for name in ("train", "validation", "prose")},
        },
        "teacher": {
            "path": "teacher",
            "sha256": "ef" * 32,
            "from_config": True,
            "formats": [],
        },
        "models": {
            "teacher": {"parameters": 2_000_000, "forward_tokens_per_second": 3e4},
            "student": {"parameters": 330_000, "forward_tokens_per_second": 1.2e5},
        },
        "runs": runs,
    }
