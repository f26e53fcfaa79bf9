"""The temporary memory of a program is held once."""

import os
import subprocess
import sys

import pytest

from jaxbert.cli import ALLOCATOR

# A block is taken, used and given back, as by a program's call; something that stays is put behind
# it meanwhile, and into its hole after. Then the next. Prints the most memory held, less that held
# before, in blocks.
SCRIPT = """
import ctypes, re, sys
from jaxbert.training.memory import OnePlace, _glibc

def peak():
    # Of this program; rusage starts from the peak of the process that started it.
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

def call():
    if sys.argv[1] == "keep":
        place.keep()
    block = glibc.malloc(size)
    ctypes.memset(block, 1, size)
    return block

size = 64 << 20
glibc, place = _glibc(), OnePlace(size)
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


def blocks_held(keep: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, keep],
        env=os.environ | {"GLIBC_TUNABLES": ALLOCATOR},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_a_block_that_moves_is_held_once():
    assert blocks_held("keep") < 1.3
    assert blocks_held("do not") > 1.8, "the block stays where it was: this shows nothing"
