"""On CPUs: the temporary memory of a program is held once; which machines are no such."""

import os
import subprocess
import sys

import pytest

from jaxbert import cpu
from jaxbert.cpu import ALLOCATOR, has_accelerator, restart_with_allocator

# A block is taken, used and given back, as by a program's call; something that stays is put behind
# it meanwhile, and into its hole after. Then the next. Prints the most memory held, less that held
# before, in blocks.
SCRIPT = """
import ctypes, re, sys
from jaxbert.cpu import TemporaryBlock, _glibc

def peak():
    # Of this program; rusage starts from the peak of the process that started it.
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

def call():
    if sys.argv[1] == "reuse":
        temporary.reuse()
    block = glibc.malloc(size)
    ctypes.memset(block, 1, size)
    return block

size = 64 << 20
glibc, temporary = _glibc(), TemporaryBlock(size)
before = peak()
block = call()
while glibc.malloc(1 << 20) < block:
    pass
glibc.free(block)
while not block <= glibc.malloc(1 << 20) < block + size:
    pass
call()
print((peak() - before) / size)
"""


# What a compilation leaves: many pieces that are free again, below some that are not.
FREED = """
import ctypes, os, sys
from jaxbert.cpu import give_back_memory

def held():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

glibc = ctypes.CDLL(None)
glibc.malloc.restype, glibc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
glibc.free.argtypes = [ctypes.c_void_p]
pieces = [glibc.malloc(1 << 16) for _ in range(2000)]
for piece in pieces:
    ctypes.memset(piece, 1, 1 << 16)
for piece in pieces[:-1]:
    glibc.free(piece)
before = held()
give_back_memory()
print(before - held())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_what_is_free_is_given_back():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 100  # of 125 MiB


def blocks_held(how: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        env=os.environ | {"GLIBC_TUNABLES": ALLOCATOR},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_a_block_that_moves_is_held_once():
    assert blocks_held("reuse") < 1.3
    assert blocks_held("do not") > 1.8, "the block stays where it was: this shows nothing"


def test_importing_it_imports_no_jax():
    script = "import sys, jaxbert.cpu; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """(devices, variables, whether libtpu is installed) -> a directory with such devices."""

    def make(devices=(), variables=(), libtpu=True):
        for name in ("JAX_PLATFORMS", "TPU_LIBRARY_PATH", *cpu._TPU_VARIABLES):
            monkeypatch.delenv(name, raising=False)
        for name, value in dict(variables).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("importlib.util.find_spec", lambda _: "libtpu" if libtpu else None)
        for name in ("null", "vfio/vfio", *devices):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


MACHINES = {
    "nothing but a CPU": (False, {}),
    "libtpu alone": (False, dict(libtpu=True)),
    "GPU": (True, dict(devices=["nvidia0"])),
    "GPU in a container": (True, dict(devices=["nvidiactl", "nvidia3"])),
    "GPU in WSL": (True, dict(devices=["dxg"])),
    "AMD's GPU": (True, dict(devices=["kfd"])),
    "TPU v4": (True, dict(devices=["accel0", "accel1"])),
    "TPU v5": (True, dict(devices=["vfio/0"])),
    "a device handed to a virtual machine": (False, dict(devices=["vfio/0"], libtpu=False)),
    "an NPU that jax does not know": (False, dict(devices=["accel/accel0"], libtpu=False)),
    "TPU by its name": (True, dict(variables={"TPU_NAME": "pod"})),
    "worker of a TPU": (True, dict(variables={"TPU_WORKER_ID": "0"})),
    "TPU with a library of its own": (
        True,
        dict(devices=["accel0"], variables={"TPU_LIBRARY_PATH": "/opt/libtpu.so"}, libtpu=False),
    ),
    "GPU, but told not to": (
        False,
        dict(devices=["nvidia0"], variables={"JAX_PLATFORMS": "cpu"}),
    ),
    "TPU, but told not to": (
        False,
        dict(devices=["accel0"], variables={"JAX_PLATFORMS": "cpu,tpu"}),
    ),
    "told to": (True, dict(variables={"JAX_PLATFORMS": "cuda,cpu"})),
    "told nothing": (False, dict(variables={"JAX_PLATFORMS": ""})),
}


@pytest.mark.parametrize(("there", "what"), MACHINES.values(), ids=MACHINES)
def test_accelerators_are_found_without_jax(machine, there, what):
    assert has_accelerator(machine(**what)) is there


@pytest.mark.parametrize(
    ("system", "text", "name"),
    [
        ("linux", "model name\t: Zen\nflags\t\t: avx2 avx512f fma\n\nmodel name\t: Zen\n",
         "Zen, avx512f"),
        ("linux", "flags : sse\nmodel name : Old: 1\n", "Old: 1"),
        ("linux", "Features : asimd\n", "of another kind"),  # ARM
        ("linux", None, "by name"),
        ("darwin", "model name : Zen\n", "by name"),
    ],
)  # fmt: skip
def test_the_processor_is_told_with_what_it_multiplies_by(
    tmp_path, monkeypatch, system, text, name
):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(cpu.platform, "machine", lambda: "of another kind")
    monkeypatch.setattr(cpu.platform, "processor", lambda: "by name")
    info = tmp_path / "cpuinfo"
    if text is not None:
        info.write_text(text)
    assert cpu.processor(info) == name


class StartedAgain(Exception):
    """Stands for the process that takes this one's place."""


@pytest.fixture
def started(monkeypatch):
    """The arguments that the program is started again with."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(cpu, "has_accelerator", lambda: False)
    # Set and deleted, so that what is set by the function does not outlive the test.
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    monkeypatch.delenv("GLIBC_TUNABLES")

    def execv(path, arguments):
        assert path == sys.executable
        found.extend(arguments[1:])
        raise StartedAgain

    found = []
    monkeypatch.setattr(os, "execv", execv)
    return found


def test_a_program_is_started_again_with_the_allocator(started):
    with pytest.raises(StartedAgain):
        restart_with_allocator("jaxbert", ["lr", "--help"])
    assert started == ["-m", "jaxbert", "lr", "--help"]
    assert os.environ["GLIBC_TUNABLES"] == ALLOCATOR


@pytest.mark.parametrize("why", ["accelerator", "again", "system"])
def test_a_program_goes_on_where_the_allocator_is_of_no_use(started, monkeypatch, why):
    if why == "accelerator":
        monkeypatch.setattr(cpu, "has_accelerator", lambda: True)
    elif why == "again":
        monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    else:
        monkeypatch.setattr(sys, "platform", "darwin")
    restart_with_allocator("jaxbert", [])
    assert started == []
