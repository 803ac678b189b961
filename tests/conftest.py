"""Every test sees 8 fake CPU devices, and no silent broadcast of ranks."""

import os

import jax
import pytest
import runs

# Compiling is most of the suite's time, and no test is about how fast code runs.
# In the environment, for the processes that tests start.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
)
# The processes that tests start need not start again to ask for huge pages, which pay
# where arrays are large.
os.environ.setdefault("GLIBC_TUNABLES", "")
# Scripts that need transformers.
collect_ignore = ["make_fixtures.py", "make_outcomes.py", "make_tokenizer_fixtures.py"]
collect_ignore += ["make_lm_eval_fixtures.py"]
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory):
    """What all processes that tests start compile, once for all of them.

    JAX has read its environment before and keeps nothing of this process's own.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(base / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


@pytest.fixture
def home(tmp_path, tmp_path_factory, monkeypatch):
    """An empty home, so that what a test leaves in caches and runs lies in tmp_path."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(home / "tfds"))  # for new processes
    fonts = tmp_path_factory.getbasetemp() / "matplotlib"  # slow to list for each test
    monkeypatch.setenv("MPLCONFIGDIR", str(fonts))
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def texts(home):
    """A glob of 40 small files in the current directory, some of them held out."""
    (home / "texts").mkdir()
    runs.write_texts(home / "texts")
    return "texts/*.txt"
