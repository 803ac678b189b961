"""XLA's flags: those of the chip that is there, none that user or XLA would mind."""

import pathlib
import re
import subprocess
import sys

import pytest
import runs

from kdjax.core.chip import find_chip
from kdjax.core.errors import UsageError
from kdjax.core.xla_flags import FLAGS, SWITCH, _known, libraries_of, set_flags

SPARSE_CORE = " ".join(FLAGS["v5p"])
TOPOLOGIES = {"v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
COMPILE = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
devices = topologies.get_topology_desc({!r}, platform="tpu").devices
mesh = jax.sharding.Mesh(devices, ("fsdp",))
place = jax.NamedSharding(mesh, jax.P("fsdp"))
x = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=place)
compiled = jax.jit(lambda x: x @ x).lower(x).compile()
print("compiled", compiled.memory_analysis() is not None)
"""


@pytest.fixture
def machine(tmp_path):
    """Returns what puts a device of a vendor on a machine's PCI bus."""

    def add(vendor, device, slot="0000:00:05.0"):
        folder = tmp_path / "sys/bus/pci/devices" / slot
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "device").write_text(f"{device}\n")
        return tmp_path

    return add


@pytest.fixture
def library(tmp_path):
    """A compiler that knows the first of v5p's flags, and one with a longer name."""
    path = tmp_path / "libtpu.so"
    longer = b"xla_enable_async_all_gather_more"
    path.write_bytes(b"\x7fELF\0xla_tpu_scoped_vmem_limit_kib\0" + longer + b"\0")
    return path


@pytest.mark.parametrize(
    ("device", "chip"),
    [("0x005e", "v4"), ("0x0062", "v5p"), ("0x0063", "v5e"), ("0x006f", "v6e")],
)
def test_a_tpu_is_known_by_its_place_on_the_bus(machine, device, chip):
    machine("0x8086", device, "0000:00:04.0")  # another vendor's, of the same number
    assert find_chip({}, machine("0x1ae0", "0x0042", "0000:00:03.0")) is None
    root = machine("0x1ae0", device)
    assert find_chip({}, root) == chip
    assert find_chip({"JAX_PLATFORMS": "tpu,cpu"}, root) == chip
    assert find_chip({"JAX_PLATFORMS": "cpu"}, root) is None


@pytest.mark.parametrize(
    ("kind", "chip"),
    [("v5litepod-16", "v5e"), ("v5p-512", "v5p"), ("v6e-8", "v6e"), ("v99-8", None)],
)
def test_or_by_the_type_that_google_sets(tmp_path, kind, chip):
    assert find_chip({"TPU_ACCELERATOR_TYPE": kind}, tmp_path) == chip


@pytest.mark.parametrize("device", ["dev/nvidia0", "dev/nvidiactl", "dev/dxg"])
def test_a_gpu_is_known_by_its_device(tmp_path, device):
    assert find_chip({}, tmp_path) is None
    (tmp_path / "dev").mkdir()
    (tmp_path / device).touch()
    assert find_chip({}, tmp_path) == "nvidia"
    assert find_chip({"JAX_PLATFORMS": "cuda"}, tmp_path) == "nvidia"
    assert find_chip({"JAX_PLATFORMS": "tpu"}, tmp_path) is None


def test_what_the_user_has_set_stays_flag_by_flag(library):
    names = re.findall(rb"xla\w+", SPARSE_CORE.encode())
    library.write_bytes(b"\0".join(names) + b"\0")
    mine = "--xla_tpu_scoped_vmem_limit_kib=1 --noxla_sc_disable_megacore_partitioning"
    other = "--xla_enable_async_all_gather=false"
    environ = {"LIBTPU_INIT_ARGS": mine, "XLA_FLAGS": other}
    said = set_flags(environ, "v5p", [library])
    assert "13 flags for v5p added to LIBTPU_INIT_ARGS (" in said
    assert environ["XLA_FLAGS"] == other
    assert environ["LIBTPU_INIT_ARGS"].startswith(f"{mine} --")
    names = re.findall(r"--(?:no)?(\w+)", environ["LIBTPU_INIT_ARGS"])
    assert len(names) == len(set(names)) == 15
    assert not set_flags(environ, "v5p", [library])  # as in a process that it starts


def test_a_flag_that_the_compiler_does_not_spell_is_left_out(library):
    environ = {}
    said = set_flags(environ, "v6e", [library])
    assert environ == {"LIBTPU_INIT_ARGS": "--xla_tpu_scoped_vmem_limit_kib=65536"}
    assert "1 flags for v6e" in said
    assert "knows no 15 others" in said
    library.write_bytes(b"")
    assert _known(FLAGS["v6e"], [library]) == []


def test_without_such_a_chip_or_its_compiler_or_when_turned_off_nothing_is_set(library):
    for off in ("0", "false", "False"):
        environ = {SWITCH: off}
        assert not set_flags(environ, "v5p", [library])
        assert environ == {SWITCH: off}
    environ = {}
    for chip, libraries in (("v5p", []), ("v5e", [library]), (None, [library])):
        assert not set_flags(environ, chip, libraries)
    assert environ == {}
    with pytest.raises(UsageError, match="KDJAX_XLA_DEFAULTS=maybe must be true or"):
        set_flags({SWITCH: "maybe"}, None, [])


def test_the_libraries_are_those_that_jax_loads():
    assert libraries_of("v5p", {"TPU_LIBRARY_PATH": "/a.so"}) == [pathlib.Path("/a.so")]
    import jaxlib

    common = pathlib.Path(jaxlib.__file__).parent / "libjax_common.so"
    found = libraries_of("nvidia", {})  # none at all without the plugin for CUDA
    assert found[:1] == ([common] if found else [])
    assert _known(["--xla_gpu_no_such=1", *FLAGS["nvidia"]], [common]) == [
        *FLAGS["nvidia"]
    ]


def test_jaxlib_accepts_the_flags_of_gpus():
    """It ends the process at the first flag that it does not know."""
    env = runs.environment() | {"XLA_FLAGS": " ".join(FLAGS["nvidia"])}
    program = "import jax; print(jax.numpy.zeros(1))"
    done = subprocess.run([sys.executable, "-c", program], env=env, check=False)
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["v5p", "v6e"])
def test_libtpu_accepts_its_flags_and_compiles(chip):
    pytest.importorskip("libtpu")
    env = runs.environment() | {
        "LIBTPU_INIT_ARGS": " ".join(FLAGS[chip]),
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    assert libraries_of(chip, {})
    assert _known(FLAGS[chip], libraries_of(chip, {})) == [*FLAGS[chip]]
    program = COMPILE.format(TOPOLOGIES[chip])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "compiled True" in done.stdout, done.stderr[-2000:]


def test_a_run_on_a_machine_with_a_tpu_says_what_it_set(tmp_path):
    """With no TPU in the way: jax runs on the CPU after the flags are set."""
    program = """
import os
from kdjax.core import xla_flags
del os.environ["JAX_PLATFORMS"]
os.environ["TPU_ACCELERATOR_TYPE"] = "v5p-8"
xla_flags.use_xla_flags()
os.environ["JAX_PLATFORMS"] = "cpu"
import jax
jax.numpy.zeros(1)
del os.environ["JAX_PLATFORMS"], os.environ["LIBTPU_INIT_ARGS"]
xla_flags.use_xla_flags()
print(os.environ.get("LIBTPU_INIT_ARGS"))
"""
    library = tmp_path / "libtpu.so"
    library.write_bytes(b"\0xla_enable_async_all_gather\0")
    env = runs.environment() | {"TPU_LIBRARY_PATH": str(library)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.startswith("XLA: 1 flags for v5p added to LIBTPU_INIT_ARGS")
    assert done.stderr.count("XLA: ") == 1  # once the backend runs, it is too late
    assert done.stdout == "None\n"
