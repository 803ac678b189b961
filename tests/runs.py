"""Whole runs in processes of their own, as a user starts them."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 120


def write_corpus(place):
    """Fills a directory with a small corpus of real text."""
    for source in sorted(pathlib.Path(json.__file__).parent.glob("*.py")):
        text = source.read_text()
        parts = [text[i : i + 1500] for i in range(0, len(text), 1500)]
        for number, part in enumerate(parts):
            (place / f"{source.stem}-{number}.txt").write_text(part)


def command(place, workdir, *overrides):
    return [
        *(sys.executable, "-m", "kdjax.main", "--config=configs/gpt_debug.py"),
        f"--workdir={place / workdir}",
        f"--config.cache_dir={place / 'cache'}",
        "--config.data.source=files",
        f"--config.data.pattern={place}/*.txt",
        "--config.data.validation_fraction=0.2",
        f"--config.student.train.steps={STEPS}",
        *overrides,
    ]


def environment(devices=1):
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
    }


def run(place, workdir, *overrides, devices=1):
    return subprocess.run(
        command(place, workdir, *overrides),
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        check=True,
    )
