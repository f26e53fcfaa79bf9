"""Gives files with parts of them changed to whatever reads them, and says what became of them.

python -m tests.fuzz --minutes 10         # every target its share of the time
python -m tests.fuzz --cases 20000        # or of the cases
python -m tests.fuzz --target csv         # one of them alone
python -m tests.fuzz --target csv --case 17 --traceback

A changed file is read, or refused by an expected error of one line: no other error, no hang,
nothing allocated that is far beyond its size, no file in its directory touched. Each target has a
process of its own, which may die: then that is a finding, and another goes on. Status 1 if
anything was found; what there was goes to benchmarks/results/fuzz.jsonl with --save.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path += [str(ROOT), str(ROOT / "tests" / "training"), str(ROOT / "tests" / "weights")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def main():
    """The command."""
    from tests.fuzz.campaign import fuzz, show
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(
        "python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--minutes", type=float, help="for all targets")
    amount.add_argument("--cases", type=int, help="of all targets (default: 2000)")
    amount.add_argument("--case", type=int, help="this one alone")
    parser.add_argument("--target", action="append", choices=list(TARGETS), metavar="NAME",
                        help=f"repeatable; one of {', '.join(TARGETS)}")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="append the totals to the results")
    parser.add_argument("--traceback", action="store_true", help="with --case: its error, whole")
    args = parser.parse_args()
    names = args.target or list(TARGETS)
    shares = {name: TARGETS[name].share / sum(TARGETS[n].share for n in names) for name in names}
    found = 0
    for name, share in shares.items():
        cases = sys.maxsize if args.minutes else max(1, round((args.cases or 2000) * share))
        seconds = args.minutes * 60 / len(names) if args.minutes else float("inf")
        first = args.case or 0
        cases = first + 1 if args.case is not None else cases
        if args.traceback:
            return show(name, args.seed, first)
        row = fuzz(name, args.seed, cases, seconds, first)
        found += row["found"]
        print(
            f"{name:32}{row['cases']:6} cases {row['refused']:6} refused {row['read']:6} read "
            f"{row['found']:4} found  {row['seconds']:6.1f} s", flush=True,
        )  # fmt: skip
        for line in row["findings"]:
            print(f"  {line}")
        if args.save:
            from benchmarks.results import append_result, environment

            append_result("fuzz", {**row, **environment()})
    return int(found > 0)


if __name__ == "__main__":
    raise SystemExit(main())
