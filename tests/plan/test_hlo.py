"""Reading HLO, on lines as compilers for TPUs and GPUs write them."""

import pytest

from jaxbert.plan.hlo import Program
from jaxbert.plan.products import product_flops
from jaxbert.plan.sending import Collective, collectives, hidden_seconds

TEXT = """HloModule jit_train, is_scheduled=true

%async_collective_fusion.1 (p.1: bf16[64,8]) -> bf16[128,8] {
  %p.1 = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[128,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.1), channel_id=1, \
replica_groups={{0,1},{2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}
}

%async_collective_fusion.2 (p.2: bf16[64,8]) -> bf16[128,8] {
  %p.2 = bf16[64,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[128,8]{1,0} all-gather(%p.2), channel_id=1, \
replica_groups={{0,1},{2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}
}

%all-reduce-scatter (input: f32[32,8]) -> f32[16,8] {
  %input = f32[32,8]{1,0} parameter(0)
  ROOT %all-reduce.1 = f32[32,8]{1,0} all-reduce(%input), replica_groups=[2,2]<=[4], to_apply=%add
}

ENTRY %main.1_spmd (a: f32[16,4], b: f32[4,8]) -> f32[16,8] {
  %a = f32[16,4]{1,0} parameter(0)
  %b = f32[4,8]{1,0} parameter(1)
  %dot.1 = f32[16,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %k = bf16[8,128,32]{2,1,0} parameter(2)
  %x = bf16[8,128,64]{2,1,0} parameter(3)
  %conv.1 = f32[64,32,1]{1,0,2:T(8,128)} convolution(%x, %k), window={size=8}, \
dim_labels=0fb_0io->bf0
  %start = (f32[16,8]{1,0:T(8,128)S(1)}, f32[4,8]{1,0}) all-reduce-start(%dot.1, %b), \
replica_groups={{0,1,2,3}}, to_apply=%add
  %done = (f32[16,8]{1,0}, f32[4,8]{1,0}) all-reduce-done(%start)
  %gather-start = (f32[16,8]{1,0}, f32[64,8]{1,0}) all-gather-start(%dot.1), \
replica_groups={}, dimensions={0}
  %scatter = f32[4,8]{1,0} reduce-scatter(%dot.1), replica_groups={{0,1,2,3}}, to_apply=%add
  %first = bf16[128,8]{1,0} fusion(%x), kind=kCustom, calls=%async_collective_fusion.1
  %second = bf16[128,8]{1,0} fusion(%x), kind=kCustom, calls=%async_collective_fusion.2
  %third = f32[16,8]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter
  %named = f32[16,8]{1,0} all-gather(%dot.1), \
replica_groups=mesh['data'=4,'fsdp'=2] {'fsdp'}, dimensions={0}
  %alone = f32[16,8]{1,0} all-reduce(%dot.1), replica_groups={{0},{1},{2},{3}}, to_apply=%add
  %kernel = bf16[8,128,64]{2,1,0} custom-call(%x), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(train)/attention/forward_kernel"}, \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"1000","transcendentals":"1"}}}
  %norm = bf16[8,128]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(train)/layer_norm/forward_norm"}, \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"0","transcendentals":"1"}}}
  %gemm = (f32[16,8]{1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", \
backend_config={"gemm":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %q = bf16[2,64,3,16]{3,2,1,0} parameter(4)
  %fmha = (bf16[2,3,64,16]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), \
custom_call_target="__cudnn$fmhaSoftmax"
  %qkv = bf16[2,64,9,16]{3,2,1,0} parameter(5)
  %triton = bf16[2,64,9,16]{3,2,1,0} custom-call(%qkv, %q), \
custom_call_target="__gpu$xla.gpu.triton", \
metadata={op_name="jit(train)/attention/attention_backward_kernel/pallas_call"}
  %norm_triton = bf16[8,128]{1,0} custom-call(%x), custom_call_target="__gpu$xla.gpu.triton", \
metadata={op_name="jit(train)/layer_norm/backward_norm/pallas_call"}
  ROOT %sum = f32[16,8]{1,0} add(%dot.1, %dot.1)
}
"""


@pytest.fixture
def program():
    return Program(TEXT)


def test_products(program):
    dot = gemm = 2 * 16 * 8 * 4
    convolution = 2 * 64 * 32 * (8 * 128)
    attention = 2 * (2 + 7) * (2 * 3 * 64 * 64 * 16)
    assert product_flops(program) == dot + gemm + convolution + 1000 + attention
    kernels = {"__cudnn$fmhaSoftmax": 1, "__gpu$xla.gpu.triton": 1, "tpu_custom_call": 1}
    assert program.kernels() == kernels


BATCHED = """ENTRY %main (a: bf16[2,3,16,8], b: bf16[2,3,8,4]) -> f32[2,3,16,4] {
  %a = bf16[2,3,16,8]{3,2,1,0} parameter(0)
  %b = bf16[2,3,8,4]{3,2,1,0} parameter(1)
  ROOT %c = f32[2,3,16,4]{3,2,1,0} convolution(%a, %b), window={WINDOW}, dim_labels=01bf_01io->01bf
}
"""


@pytest.mark.parametrize(
    "window",
    [
        "size=2x3 lhs_dilate=2x3",
        "size=2x3 stride=1x2 pad=0_1x0_4 lhs_dilate=2x3 rhs_dilate=1x1 rhs_reversal=1x1",
        "size=2x3 stride=2x3 pad=1_1x2_2 rhs_reversal=1x1",
    ],
)
def test_a_batch_of_products_is_counted_once(window):
    """As a TPU writes it: a window over the batch that meets one element at each place."""
    assert product_flops(Program(BATCHED.replace("WINDOW", window))) == 6 * 2 * 16 * 4 * 8


def test_a_window_that_meets_all_is_counted_whole():
    text = BATCHED.replace("WINDOW", "size=2x3 pad=1_0x1_1")
    # Along the first axis 1 + 2 elements are met, along the second 2 + 3 + 2.
    assert product_flops(Program(text)) == 2 * 16 * 4 * 8 * (1 + 2) * (2 + 3 + 2)


def test_arrays_that_are_sent_together_all_count():
    text = """HloModule jit_train

ENTRY %main (a: f32[16,8], b: bf16[4,8]) -> f32[16,8] {
  %a = f32[16,8]{1,0} parameter(0)
  %b = bf16[4,8]{1,0} parameter(1)
  %gather-start = ((f32[16,8]{1,0}, bf16[4,8]{1,0}), (f32[64,8]{1,0}, bf16[16,8]{1,0})) \
all-gather-start(%a, %b), replica_groups={{0,1,2,3}}, dimensions={0}
  %scatter-start = ((f32[16,8]{1,0}, bf16[4,8]{1,0}), (f32[4,8]{1,0}, bf16[1,8]{1,0})) \
reduce-scatter-start(%a, %b), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %sum = f32[16,8]{1,0} add(%a, %a)
}
"""
    gathered, scattered = 64 * 8 * 4 + 16 * 8 * 2, 16 * 8 * 4 + 4 * 8 * 2
    assert collectives(Program(text), 4) == [
        Collective("all-gather", gathered, 4), Collective("reduce-scatter", scattered, 4)
    ]  # fmt: skip


def test_collectives(program):
    assert collectives(program, 4) == [
        Collective("all-gather", 128 * 8 * 2, 2),
        Collective("reduce-scatter", 32 * 8 * 4, 2),
        Collective("all-reduce", (16 * 8 + 4 * 8) * 4, 4),
        Collective("all-gather", 64 * 8 * 4, 4),
        Collective("reduce-scatter", 16 * 8 * 4, 4),
        Collective("all-gather", 16 * 8 * 4, 2),
    ]


def test_time_on_a_ring():
    assert Collective("all-gather", 1000, 4).seconds(100) == pytest.approx(7.5)
    assert Collective("reduce-scatter", 1000, 4).seconds(100) == pytest.approx(7.5)
    assert Collective("all-reduce", 1000, 4).seconds(100) == pytest.approx(15)
    assert Collective("collective-permute", 1000, 4).seconds(100) == pytest.approx(10)


GATHER = "replica_groups={{0,1,2,3}}, dimensions={0}"
ORDERED = f"""%begin (a: f32[16,8]) -> f32[64,8] {{
  %a = f32[16,8]{{1,0}} parameter(0)
  %flag = s32[] custom-call(%a), custom_call_target="AsyncCollectiveStart"
  ROOT %g.1 = f32[64,8]{{1,0}} all-gather(%a), {GATHER}, chain_id="7"
}}

%end (b: f32[16,8]) -> f32[64,8] {{
  %b = f32[16,8]{{1,0}} parameter(0)
  %g.2 = f32[64,8]{{1,0}} all-gather(%b), {GATHER}, chain_id="7"
  ROOT %all = f32[64,8]{{1,0}} custom-call(%g.2), custom_call_target="AsyncCollectiveDone"
}}

ENTRY %main (x: f32[16,8]) -> f32[64,8] {{
  %x = f32[16,8]{{1,0}} parameter(0)
  %first = (f32[16,8]{{1,0}}, f32[64,8]{{1,0}}) all-gather-start(%x), {GATHER}
  %five = f32[16,8]{{1,0}} negate(%x)
  %second = (f32[16,8]{{1,0}}, f32[64,8]{{1,0}}) all-gather-start(%x), {GATHER}
  %first-done = f32[64,8]{{1,0}} all-gather-done(%first)
  %two = f32[16,8]{{1,0}} negate(%x)
  %second-done = f32[64,8]{{1,0}} all-gather-done(%second)
  %sum = f32[16,8]{{1,0}} all-reduce(%x), replica_groups={{{{0,1,2,3}}}}, to_apply=%add
  %third = f32[64,8]{{1,0}} fusion(%x), kind=kCustom, calls=%begin
  %ten = f32[16,8]{{1,0}} negate(%x)
  ROOT %third-done = f32[64,8]{{1,0}} fusion(%x), kind=kCustom, calls=%end
}}
"""


def test_what_is_sent_beside_others():
    program, link = Program(ORDERED), 0.75 * 64 * 8 * 4 / 8
    assert [one.seconds(link) for one in collectives(program, 4)] == [8, 8, 8, 4]
    # Beside the first 5, and 3 are waited for; the second begins after it, beside 2; the sum beside
    # nothing, and the third, which is begun and ended within fusions, beside all of 10.
    takes = {"five": 5.0, "two": 2.0, "ten": 10.0}
    hidden = hidden_seconds(program, link, 4, lambda i: takes.get(i.name, 0.0))
    assert hidden == 5 + 2 + 8


LOOPED = """%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: f32[4,8]) -> f32[4,4] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %dot = f32[4,4]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]{1,0}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %once = f32[4,4]{1,0} fusion(%x), kind=kOutput, calls=%fused
  %all = f32[4,8]{1,0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  ROOT %next = (s32[], f32[4,8]{1,0}) tuple(%i, %all)
}

%condition (state: (s32[], f32[4,8])) -> pred[] {
  %state.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state.1), index=0
  %bound = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x.1 = f32[4,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[4,8]{1,0}) tuple(%zero, %x.1)
  %loop = (s32[], f32[4,8]{1,0}) while(%start), condition=%condition, body=%body KNOWN
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""


@pytest.mark.parametrize(
    ("known", "rounds"),
    [("", 5), (', backend_config={"known_trip_count":{"n":"3"}}', 3)],
    ids=["by its condition", "known"],
)
def test_a_loop_counts_as_often_as_it_goes_round(known, rounds):
    program = Program(LOOPED.replace(" KNOWN", known))
    assert product_flops(program) == rounds * 2 * 4 * 4 * 8
    assert collectives(program, 2) == [Collective("all-reduce", 4 * 8 * 4, 2, rounds)]
    names = {i.name for i in program.operations}
    assert {"loop", "once", "all", "less"} <= names
    assert not names & {"dot", "sum"}  # which run as parts of others


def test_a_loop_that_may_end_at_any_time_is_refused():
    text = LOOPED.replace(" KNOWN", "").replace("%bound = s32[] constant(5)", "%bound = s32[] f()")
    with pytest.raises(LookupError, match="how often does this loop go round"):
        Program(text)
