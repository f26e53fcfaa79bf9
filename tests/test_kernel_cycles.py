"""How the cycles of a kernel are counted in its code."""

import pytest

from benchmarks import kernel_cycles
from benchmarks.kernel_cycles import cycles, with_kernels

# Two bundles before a loop of 3 rounds of two bundles, with a loop of 5 rounds of one in it.
CODE = """
LB: loop body
     0x0   :  { %1 = smov 0 }
     0x1   :  { %2 = smov 0  ;;  %3 = smov 0 }
     0x2 LB: > { %4 = sadd.s32 1, %s0 }
     0x3 LB: >> { %p1 = scmp.ge.s32.totalorder %s5, 5 /* loop exit test */ }
     0x4   : > { %p2 = scmp.ge.s32.totalorder %s6, 3 /* loop exit test */ }
"""


def test_bundles_count_as_often_as_their_loops_go_round():
    assert cycles(CODE) == 2 + 3 * (2 + 5 * 1)


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match=r"depth \[2\] do not say how often"):
        cycles(CODE.replace("%s5, 5", "%s5, %s7"))


def test_a_step_with_its_kernels_has_their_code_in_place_of_peaks(monkeypatch):
    # Microseconds by code and by bytes, of which the longer counts.
    counted = {"attention": (90, 30), "attention, back": (140, 50), "norm": (20, 30),
               "norm, back": (35, 30)}  # fmt: skip
    rows = [
        {"kernel": name, "chip": "v5e", "shape": [32, 128, 768], "seconds": code / 1e6,
         "memory_seconds": memory / 1e6}
        for name, (code, memory) in counted.items()
    ]  # fmt: skip
    monkeypatch.setattr(kernel_cycles, "read_results", lambda name: rows)
    plan = {"model": "bert-base-uncased", "topology": "v5e:2x4", "batch_size": 256,
            "max_length": 128, "modelled_seconds": 0.0175}  # fmt: skip
    wanted = 0.0175 - 0.0005 + 11 * (90 + 140 + 2 * (30 + 35)) / 1e6
    assert with_kernels(plan, at_peaks=0.0005) == pytest.approx(wanted)
    assert with_kernels(plan | {"topology": "v6e:2x4"}, at_peaks=0.0005) is None
    assert with_kernels(plan | {"batch_size": 64}, at_peaks=0.0005) is None
