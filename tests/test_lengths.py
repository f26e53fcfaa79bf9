"""The length workloads, and the figure of them."""

from benchmarks.lengths import draw, points
from benchmarks.workload import LENGTHS, TOKENS


def row(seconds, length=32, side="jaxbert"):
    work = {"name": f"length-{length}-float32", "dtype": "float32"}
    work |= {"batch": TOKENS // length, "length": length}
    return {"side": side, "workload": work, "step_seconds": seconds}


def test_every_length_has_as_many_tokens():
    assert {work.batch * work.length for work in LENGTHS} == {TOKENS}
    assert {work.length for work in LENGTHS} == {32, 64, 128, 256, 512}


def test_the_latest_comparison_counts(tmp_path):
    other = {"side": "jaxbert", "workload": {"name": "reviews-float32"}, "step_seconds": [1.0]}
    failed = row([9.0]) | {"error": "no memory"}
    del failed["step_seconds"]
    rows = [row([1.0]), other, row([2.048, 4.096]), row([1.0], 64, "torch-eager"), failed]
    found = points(rows)
    assert found["float32", "jaxbert"] == {32: [500.0, 1000.0]}
    assert list(found["float32", "torch-eager"]) == [64]
    draw(found, tmp_path / "length.png")
    assert (tmp_path / "length.png").stat().st_size > 5000
