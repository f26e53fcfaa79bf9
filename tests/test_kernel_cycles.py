"""How the cycles of a kernel are counted in its code."""

import pytest

from benchmarks.kernel_cycles import cycles

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
