"""Bytes, cycles and parts of compiled HLO, counted by hand on lines as compilers write them."""

import pytest

from jaxbert.plan.costs import PARTS, costs
from jaxbert.plan.hardware import Chip
from jaxbert.plan.hlo import Program
from jaxbert.plan.products import product_flops
from jaxbert.plan.traffic import Moved, launches, moved

FLOPS, BANDWIDTH, CLOCK = 1e9, 1e6, 1e6
TPU = Chip("tpu", "made up", 1e9, {"bfloat16": FLOPS}, BANDWIDTH, 1e9, ("1",), "nobody", CLOCK)

# A product whose left side was brought to the chip before, a LayerNorm, a kernel, and a loop.
TEXT = """HloModule jit_train, is_scheduled=true

%fused_product (p.0: bf16[64,128], p.1: bf16[128,256]) -> bf16[64,256] {
  %p.0 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p.1 = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(1)
  %convolution = bf16[64,256]{1,0:T(8,128)(2,1)} convolution(%p.0, %p.1), dim_labels=bf_io->bf, \
metadata={op_name="jit(train)/jvp(layer_0)/feed_forward/linear/dot_general"}
  ROOT %tanh = bf16[64,256]{1,0:T(8,128)(2,1)S(1)} tanh(%convolution), \
metadata={op_name="jit(train)/jvp(layer_0)/layer_norm/tanh"}
}

%fused_norm (p.2: bf16[64,256]) -> f32[64,256] {
  %p.2 = bf16[64,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %wide = f32[64,256]{1,0:T(8,128)} convert(%p.2)
}

%fused_update (p.3: f32[64,256], p.4: f32[8,256], p.5: s32[]) -> f32[64,256] {
  %p.3 = f32[64,256]{1,0:T(8,128)} parameter(0)
  %p.4 = f32[8,256]{1,0:T(8,128)S(1)} parameter(1)
  %p.5 = s32[] parameter(2)
  ROOT %dus = f32[64,256]{1,0:T(8,128)} dynamic-update-slice(%p.3, %p.4, %p.5, %p.5)
}

%fused_rows (p.6: f32[64,256], p.7: s32[]) -> f32[8,256] {
  %p.6 = f32[64,256]{1,0:T(8,128)} parameter(0)
  %p.7 = s32[] parameter(1)
  %same = f32[64,256]{1,0:T(8,128)} bitcast(%p.6)
  %rows = f32[8,256]{1,0:T(8,128)} dynamic-slice(%same, %p.7, %p.7), dynamic_slice_sizes={8,256}
  ROOT %more = f32[8,256]{1,0:T(8,128)S(1)} add(%rows, %rows)
}

%body (state: (s32[], f32[64,256])) -> (s32[], f32[64,256]) {
  %state = (s32[], f32[64,256]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %table = f32[64,256]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %take = f32[8,256]{1,0:T(8,128)S(1)} fusion(%table, %i), kind=kLoop, calls=%fused_rows, \
metadata={op_name="jit(train)/optimizer/add"}, \
backend_config={"window_config":{"estimated_cycles":"100"}}
  %put = f32[64,256]{1,0:T(8,128)} fusion(%table, %take, %i), kind=kLoop, calls=%fused_update, \
metadata={op_name="jit(train)/optimizer/put"}, \
backend_config={"window_config":{"estimated_cycles":"200"}}
  ROOT %next = (s32[], f32[64,256]{1,0:T(8,128)}) tuple(%i, %put)
}

%condition (state: (s32[], f32[64,256])) -> pred[] {
  %state.1 = (s32[], f32[64,256]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %bound = s32[] constant(3)
  ROOT %less = pred[] compare(%i.1, %bound), direction=LT
}

ENTRY %main (x: bf16[64,128], w: bf16[128,256]) -> f32[64,256] {
  %x = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(1)
  %copy-start = (bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, bf16[64,128]{1,0:T(8,128)(2,1)}, \
u32[]{:S(2)}) copy-start(%x)
  %copy-done = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %product = bf16[64,256]{1,0:T(8,128)(2,1)S(1)} fusion(%copy-done, %w), kind=kOutput, \
calls=%fused_product, metadata={op_name="jit(train)/jvp(layer_0)/layer_norm/tanh"}, \
backend_config={"window_config":{"kernel_window_bounds":[],"estimated_cycles":"1500"}}
  %norm = f32[64,256]{1,0:T(8,128)} fusion(%product), kind=kLoop, calls=%fused_norm, \
metadata={op_name="jit(train)/transpose(jvp(layer_0))/layer_norm/convert"}, \
backend_config={"window_config":{"kernel_window_bounds":[],"estimated_cycles":"3000"}}
  %kernel = bf16[64,100]{1,0:T(8,128)(2,1)} custom-call(%x), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(train)/jvp(layer_0)/attention/forward_kernel"}, \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"1000000"}}}
  %zero = s32[] constant(0)
  %start = (s32[], f32[64,256]{1,0:T(8,128)}) tuple(%zero, %norm)
  %loop = (s32[], f32[64,256]{1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  ROOT %out = f32[64,256]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""
X, W, Y, Z, ROWS = 64 * 128 * 2, 128 * 256 * 2, 64 * 256 * 2, 64 * 256 * 4, 8 * 256 * 4
# The kernel's output is 64 x 100, in tiles of 128.
BY_HAND = {
    "copy-start": Moved(X, X),
    "copy-done": Moved(),
    "product": Moved(W, X + Y),
    "norm": Moved(Z, Y),
    "kernel": Moved(X + 64 * 128 * 2, 0),
    "take": Moved(ROWS + 4, ROWS),  # of the table only the rows, and the index
    "put": Moved(ROWS + 4, ROWS),
    "loop": Moved(),
}


@pytest.fixture(scope="module")
def program():
    return Program(TEXT)


def test_what_is_on_the_chip_is_counted_apart(program):
    found = {i.name: moved(program, i, has_vmem=True) for i in program.operations}
    assert {name: found[name] for name in BY_HAND} == BY_HAND


def test_where_there_is_no_such_memory_all_is_main_memory(program):
    for i in program.operations:
        if i.name in BY_HAND:
            assert moved(program, i, has_vmem=False) == Moved(sum(BY_HAND[i.name]))


def test_what_a_loop_starts_counts_in_every_round(program):
    # The product, the LayerNorm and the kernel; three rounds of taking and putting rows.
    assert launches(program) == 3 + 3 * 2
    free = TEXT.replace('custom_call_target="tpu_custom_call"', 'custom_call_target="Sharding"')
    assert launches(Program(free)) == 2 + 3 * 2


def test_costs_by_part(program):
    """The product's part is that of the product, not of what was fused behind it."""
    found = costs(program, TPU, "bfloat16")
    assert set(found) == {"feed-forward", "LayerNorm", "attention", "optimizer", "all else"}
    fed, norm, attention, optimizer = (
        found[name] for name in ("feed-forward", "LayerNorm", "attention", "optimizer")
    )
    assert fed.seconds == fed.product_seconds == 1500 / CLOCK
    # What is copied ahead is of the part that reads it, and takes no time of its own.
    assert (fed.flops, fed.hbm_bytes, fed.vmem_bytes) == (2 * 64 * 256 * 128, W + X, X + Y + X)
    assert (norm.seconds, norm.product_seconds) == (3000 / CLOCK, 0)
    # Three rounds of both.
    assert optimizer.seconds == pytest.approx(3 * (100 + 200) / CLOCK)
    assert optimizer.hbm_bytes == 3 * 2 * (ROWS + 4)
    assert {cost.roofline_seconds for cost in (fed, norm, optimizer)} == {0}
    # Of the kernel the compiler says nothing: its bytes take longer than its products.
    assert attention.seconds == attention.roofline_seconds == (X + 64 * 128 * 2) / BANDWIDTH
    assert attention.flops == 1_000_000
    assert found["all else"].hbm_bytes == 3 * (4 + 4 + 1)  # the loop's condition
    assert sum(cost.flops for cost in found.values()) == product_flops(program)


def test_without_a_clock_all_is_at_the_peaks(program):
    found = costs(program, TPU._replace(clock=None), "bfloat16")
    # The copy has no time here either.
    assert found["feed-forward"].seconds == max(2 * 64 * 256 * 128 / FLOPS, W / BANDWIDTH)
    for cost in found.values():
        assert cost.roofline_seconds == cost.seconds


SCOPES = {
    "jit(train)/jvp(encoder)/embeddings/layer_norm/mul": "embeddings",
    "jit(train)/jvp(encoder)/layer_3/attention/linear/dot_general": "attention",
    "jit(train)/transpose(jvp(encoder))/layer_3/layer_norm/reduce_sum": "LayerNorm",
    "jit(train)/jvp(encoder)/layer_3/feed_forward/activation/erf": "feed-forward",
    "jit(train)/jvp(encoder)/layer_3/dropout/select_n": "dropout, residual sums",
    "jit(train)/jvp(encoder)/layer_3/add": "dropout, residual sums",
    "jit(train)/jvp(head)/linear/dot_general": "loss and head",
    "jit(train)/jvp(loss)/log": "loss and head",
    "jit(train)/gradient_norms/reduce_sum": "optimizer",
    "jit(train)/optimizer/sqrt": "optimizer",
    "jit(train)/shard_map/psum": "all else",
}


@pytest.mark.parametrize(("scope", "part"), SCOPES.items(), ids=SCOPES.values())
def test_parts_by_scope(scope, part):
    text = f"""ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  ROOT %y = f32[8]{{0}} negate(%x), metadata={{op_name="{scope}"}}
}}
"""
    assert set(SCOPES.values()) == set(PARTS)
    found = costs(Program(text), TPU, "bfloat16")
    assert {name: cost.hbm_bytes for name, cost in found.items()} == {part: 64}


SCATTERED = """%change (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

ENTRY %main (t: f32[1000,8], i: s32[4,1], u: f32[4,8]) -> f32[4,8] {
  %t = f32[1000,8]{1,0} parameter(0)
  %i = s32[4,1]{1,0} parameter(1)
  %u = f32[4,8]{1,0} parameter(2)
  %new = f32[1000,8]{1,0} scatter(%t, %i, %u), to_apply=%change
  ROOT %rows = f32[4,8]{1,0} gather(%new, %i), slice_sizes={1,8}
}
"""


def test_a_table_costs_the_rows_that_are_read_or_changed():
    program = Program(SCATTERED)
    found = {i.name: moved(program, i, has_vmem=False).main for i in program.operations}
    rows, indices = 4 * 8 * 4, 4 * 4
    # Scattered rows are read where they come from, and read and written where they go.
    assert found["new"] == indices + rows + 2 * rows
    assert found["rows"] == rows + indices + rows
