"""How far apart two float32 computations of one number may lie, on any processor.

A float32 operation rounds to within UNIT of its result. A sum of n terms of either sign, taken one
after the other, then lies within UNIT * sqrt(n / 6) of the exact one, one standard deviation,
relative to the sum's own size; vector instructions sum in several lanes, which only helps. Sums
that follow each other add up in squares, so two computations that go through sums of `terms` terms
in all differ by

    rounding(terms) = UNIT * sqrt(terms / 3)

of what they compute, whatever order, lanes and fused operations a processor sums with. Two things
come on top, and MARGIN holds both: a test looks at the worst of thousands of numbers (four
deviations), and errors are relative to the size of a sum's terms, `scale`, for which the largest
number compared stands (it is two to four times the typical one).

The promise to users is a number, 1e-5 for outputs and hidden states (`PROMISE`) and 1e-4 of a
leaf's largest gradient (`GRADIENT_PROMISE`). Why it holds on any instruction set: a LayerNorm ends
every half layer, so hidden states are of size 1 to 4 in the models tested and an error neither
grows nor shrinks on its way up by more than the network does with any change of its input; two or
three layers of widths to 48 and 64 tokens make `network_terms` 500 to 1000, so rounding * scale is
1e-6 to 3e-6. A wrong epsilon, activation or mask changes the same numbers by 1e-4 and more.

Where fewer than 50 operations make a number of size 1, MARGIN * rounding(50) is below 1e-6, the
default of pytest.approx: schedules, metrics, losses of three logits and statistics are held to that
as they stand, and to more where they are computed in float64.
"""

import re

import numpy as np

UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-8}
MARGIN = 4
PROMISE = 1e-5
GRADIENT_PROMISE = 1e-4
# Softmax sees no shift of all keys: this gradient is zero in theory, and rounding in practice.
KEY_BIAS = re.compile(r"key/bias$|attention\.self\.key\.bias$")

_LIKE_VALUE = re.compile("(?<=attention)/(position_)?(query|key)/")
_LIKE_KERNEL = re.compile("^(head/classifier)/bias$")


def rounding(terms, dtype="float32"):
    """One standard deviation between two computations through sums of `terms` terms, relative."""
    return UNIT[dtype] * np.sqrt(terms / 3)


def network_terms(config, length, gradient=False):
    """Terms of all sums between the ids and the outputs; there and back again for a gradient."""
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    attention = width + width // heads + 2 * length + width  # in, scores, softmax and mean, out
    layer = attention + width + inner + 2 * 2 * width  # both products, mean and variance twice
    terms = config.num_hidden_layers * layer + 2 * width + 2 * width  # embeddings' norm, the head
    # Back: each product again for its input, and a sum over the rows for a kernel.
    return 3 * terms if gradient else terms


def size(array):
    return float(np.max(np.abs(array), initial=0))


def assert_at_most(error, bound, what):
    ratio = error / bound if bound else np.inf
    assert error <= bound, f"{what}: off by {error:.3g}, {ratio:.3g} of the bound {bound:.3g}"


def assert_close(got, want, *, terms, scale=None, dtype="float32", limit=np.inf, what="values"):
    """|got - want| <= MARGIN * rounding(terms) * scale everywhere, and never above `limit`.

    scale: the size of what was added up; the largest number wanted where that says it.
    """
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    assert got.shape == want.shape, f"{what}: shapes {got.shape} and {want.shape}"
    assert np.isfinite(got).all(), f"{what}: not finite"
    bound = MARGIN * rounding(terms, dtype) * (size(want) if scale is None else scale)
    error, bound = np.broadcast_arrays(np.abs(got - want), np.minimum(bound, limit))
    worst = np.argmax(error - bound)
    assert_at_most(error.flat[worst], bound.flat[worst], what)


def scales(leaves):
    """{path: the size of what is added up to a leaf} of a gradient, or of a sum of gradients.

    A leaf's own largest number, and no less than 1e-4 of the largest of all. Behind a softmax the
    gradients of queries and keys are differences from a mean, of numbers like those that make the
    value's gradient: they have its scale, however much cancels (all of it for the key's bias).
    What is added up to a classifier's bias, probability less label, has either sign and is what its
    kernel adds up times inputs of size 1: that has its kernel's scale.
    """
    sizes = {path: size(leaf) for path, leaf in leaves.items()}
    floor = 1e-4 * max(sizes.values())
    like = {
        path: _LIKE_KERNEL.sub(r"\1/kernel", _LIKE_VALUE.sub("/value/", path)) for path in leaves
    }
    return {path: max(sizes[path], sizes[like[path]], floor) for path in leaves}


def assert_gradients_close(got, want, *, terms, floor=0.0, what=""):
    """Two {path: gradient}, each leaf by `assert_close`, relative to its own `scales`.

    floor: what the gradients were added to and taken off again, if they were; it rounds them.
    """
    assert got.keys() == want.keys()
    smallest = 1e-4 * max(map(size, want.values()))
    for path, scale in scales(want).items():
        own = scale if KEY_BIAS.search(path) else max(size(want[path]), smallest)
        scale, own = (x + floor * rounding(1) / rounding(terms) for x in (scale, own))
        assert_close(
            got[path], want[path], terms=terms, scale=scale, limit=GRADIENT_PROMISE * own,
            what=f"{what} {path}",
        )  # fmt: skip


def assert_rounded_alike(got, want, *, layers, gradient, what="values"):
    """A computation in bfloat16 against the one in float32, by the length of the difference.

    What is rounded is the factors of products, which add up in float32, and on CPUs nothing else.
    A factor is off by UNIT / sqrt(3), one standard deviation, and a sum of such terms by no more,
    relative to itself; roundings that follow each other add up in squares. A layer has six products
    one after the other (for keys, scores, means, the attention's output, and two of the
    feed-forward), pooler and head are two more, each of two factors. On the way back each product
    comes again, for one of its factors, and all of them are of numbers rounded on the way there:
    three times as many.
    """
    roundings = 2 * (6 * layers + 2) * (3 if gradient else 1)
    bound = MARGIN * rounding(roundings, "bfloat16")
    got, want = (np.asarray(x, np.float64).ravel() for x in (got, want))
    assert np.isfinite(got).all(), f"{what}: not finite"
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert_at_most(error, bound, f"{what} in bfloat16")


def training_error(terms, *, adam=False):
    """The relative error of what a training moves, one standard deviation.

    A step moves parameters by gradients, with their relative error, and later gradients are as far
    off as the parameters are: it stays relative to the distance. Adam divides a gradient by its own
    size: a gradient that is a share s of its leaf's largest has the relative error rounding / s.
    Shares spread evenly from 0 to 1 make the mean of min(1, rounding / s) a
    rounding * log(1 / rounding).
    """
    relative = rounding(terms)
    return relative * np.log(1 / relative) if adam else relative


def assert_losses_alike(got, want, *, terms, adam=False, limit=np.inf, what="losses"):
    """Of two trainings, by what they add up for a gradient."""
    bound = MARGIN * training_error(terms, adam=adam) * size(want)
    assert np.shape(got) == np.shape(want), f"{what}: {np.shape(got)} and {np.shape(want)}"
    assert_at_most(size(np.subtract(got, want)), min(bound, limit), what)


def assert_trained_alike(got, want, start, *, terms, steps, adam_rate=None):
    """Two {path: parameters} after `steps` steps from `start`; each step rounds them, too.

    adam_rate: the largest size of Adam's steps. Then the mean error of a leaf is held to its bound,
    as a number whose gradient passes near zero may be off by all of a step; the largest error is
    held to that. One number in a thousand that is wrong still shows in the mean.
    """
    adam = adam_rate is not None
    if not adam:
        distances = scales({path: np.subtract(leaf, start[path]) for path, leaf in want.items()})
    for path, leaf in want.items():
        if adam and KEY_BIAS.search(path):
            continue  # no gradient but rounding, which Adam scales up to its full step
        error = np.abs(np.subtract(got[path], leaf, dtype=np.float64))
        moved = adam_rate * steps if adam else distances[path]
        bound = MARGIN * (
            training_error(terms, adam=adam) * moved + rounding(steps) * size(leaf)
        )  # fmt: skip
        if adam:
            assert_at_most(size(error), adam_rate, f"{path}, the largest")
        assert_at_most(np.mean(error) if adam else size(error), bound, path)


def assert_followed(got, want, *, steps, rate, beta2=None, what=""):
    """Parameters after `steps` steps of an optimizer given the same gradients, against float64.

    A step is some 20 operations. Adam's correction also divides by the root of 1 - beta2^t, where
    float32 has lost digits: beta2^t is off by 2 UNIT at most, the root by UNIT / (1 - beta2^t), for
    beta2 = 0.999 and the first step 6e-5. No chance is in that, so it has no margin.
    """
    lost = 0.0 if beta2 is None else sum(UNIT["float32"] / (1 - beta2**t) for t in steps)
    bound = MARGIN * rounding(20 * len(steps)) * max(size(want), 1.0) + rate * lost
    assert_at_most(size(np.subtract(got, want)), bound, what)
