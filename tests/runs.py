"""kdjax's commands in processes of their own, as a user starts them."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
LAUNCHER = ROOT / "launch" / "local.py"
_EARLY = ("HF_", "JAX_", "PYTHON", "XLA_")
_WARM = {}  # processes of tests/warm.py, by their early environment
TWO = (LAUNCHER, "--processes=2", "--devices=1", "--", sys.executable)


def environment(devices=1, **variables):
    """Returns the environment of a process that sees this code and no accelerator."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
        **variables,
    }


def start(*arguments, env=None, cwd=None):
    """Starts Python with the arguments, and returns the process."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment() if env is None else env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def run(*arguments, env=None, cwd=None, timeout=None, check=True):
    """Runs Python with the arguments, and returns its exit status and what it said."""
    if arguments[0] == "-m":
        found = _run_warm(arguments[1:], env or environment(), cwd, timeout)
        assert not check or found.returncode == 0, found.stderr
        return found
    process = start(*arguments, env=env, cwd=cwd)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher passes it on, so that no rank is left behind
        raise
    assert not check or process.returncode == 0, errors
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def _run_warm(arguments, env, cwd, timeout):
    """Does what `run` does with a module, in a fork of a process that is warm."""
    # What libraries read of it when they are imported.
    key = tuple(sorted((k, v) for k, v in env.items() if k.startswith(_EARLY)))
    if key not in _WARM:
        _WARM[key] = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "warm.py"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
    server = _WARM[key]
    with tempfile.TemporaryDirectory() as place:
        output, errors = (pathlib.Path(place, name) for name in ("out", "err"))
        request = {
            "arguments": [*map(str, arguments)],
            "environment": {**env},
            "cwd": str(cwd or os.getcwd()),
            "output": str(output),
            "errors": str(errors),
            "timeout": timeout,
        }
        print(json.dumps(request), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        said = (path.read_text("utf-8") for path in (output, errors))
        return subprocess.CompletedProcess(arguments, code, *said)


def experiment(texts, workdir, *overrides):
    """Returns the arguments of a small experiment on the files that a glob finds."""
    return [
        *("-m", "kdjax.main", f"--config={ROOT}/configs/gpt_debug.py"),
        f"--workdir={workdir}",
        "--config.data.source=files",
        f"--config.data.pattern={texts}",
        *("--config.data.validation_fraction=0.2", "--config.data.length=64"),
        *("--config.evaluate.rows=16", "--config.evaluate.final_rows=32"),
        "--config.evaluate.batch_size=8",
        *overrides,
    ]


def read_report(workdir):
    return json.loads(pathlib.Path(workdir, "report", "report.json").read_text())


def write_texts(place):
    """Fills a directory with 40 small files, some of which are held out."""
    for number in range(40):
        text = " ".join(f"{number} and {n} is {number + n}." for n in range(20))
        (place / f"{number}.txt").write_text(text)


def write_corpus(place):
    """Fills a directory with a small corpus of real text."""
    for source in sorted(pathlib.Path(json.__file__).parent.glob("*.py")):
        text = source.read_text()
        parts = [text[i : i + 1500] for i in range(0, len(text), 1500)]
        for number, part in enumerate(parts):
            (place / f"{source.stem}-{number}.txt").write_text(part)
