"""The files of launch/ are what their tools read, and the notebook runs.

The tools come with the extra "launch".
"""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest
from runs import ROOT, environment

pytestmark = pytest.mark.slow
LAUNCH = ROOT / "launch"
NOTEBOOK = LAUNCH / "colab" / "kdjax_tpu.ipynb"
RULES = "line-length: {max: 92}, comments: {min-spaces-from-content: 1}"
YAML = f"{{extends: default, rules: {{{RULES}}}}}"


@pytest.mark.parametrize(
    "command",
    [
        ["shellcheck", LAUNCH / "tpu_vm.sh", LAUNCH / "slurm.sbatch"],
        ["hadolint", LAUNCH / "Dockerfile"],
        ["yamllint", "--strict", "-d", YAML, LAUNCH],
    ],
    ids=lambda command: command[0],
)
def test_its_linter_finds_nothing(command):
    tool = shutil.which(command[0], path=pathlib.Path(sys.executable).parent)
    if tool is None:
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run([tool, *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["jobset.yaml", "jobset-gpu.yaml"])
def test_the_jobs_of_a_jobset_are_such_as_kubernetes_knows(name):
    validate = pytest.importorskip("kubernetes_validate")
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load((LAUNCH / "gke" / name).read_text())
    for replicated in jobset["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}}
        validate.validate(job | replicated["template"], "1.31", strict=True)
        misspelt = replicated["template"]["spec"] | {"backofLimit": 0}
        with pytest.raises(validate.ValidationError):
            validate.validate(job | {"spec": misspelt}, "1.31", strict=True)


def test_the_notebook_runs_from_top_to_bottom_on_a_cpu(tmp_path):
    """Below its own folder, as in a checkout, and with a cache of its own."""
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=1800, resources=resources).execute(
        env=environment(XDG_CACHE_HOME=str(tmp_path / "cache"))
    )
    said = json.dumps(notebook.cells)
    assert "kdjax:gpt_debug on 1 cpu" in said and "def read(path)" in said
    images = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(images) >= 4  # two of each of the two runs at least
    for name in ("colab", "my-text"):
        assert (tmp_path / "runs" / name / "report" / "report.html").exists()
