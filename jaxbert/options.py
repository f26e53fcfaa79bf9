"""What the commands are told: their flags, and for `finetune` one resolved, JSON-able whole.

Later sources win: defaults, the strategy, the configuration file, the flags.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Flag(NamedTuple):
    """A flag of `jaxbert finetune` and the place of its value in the configuration."""

    name: str
    place: str
    type: type
    help: str


_O = "training.optimizer."
FLAGS = (
    Flag("--model", "model", str, "directory or hub id of the pre-trained model"),
    Flag("--revision", "revision", str, "branch, tag or commit of a hub model"),
    Flag("--train", "train", str, "training examples: csv, tsv, jsonl, parquet, or a hub data set"),
    Flag("--eval", "eval", str, "examples by which the best model is chosen"),
    Flag("--text-column", "text_column", str, "column of the text (default: text)"),
    Flag("--text-pair-column", "text_pair_column", str, "column of the second text of a pair"),
    Flag("--label-column", "label_column", str, "column of the label (default: label)"),
    Flag("--output", "output", str, "directory for the run"),
    Flag("--strategy", "strategy", str, "named learning-rate strategy (default: discriminative)"),
    Flag("--strategy-file", "strategy_file", str, "TOML file with strategies of your own"),
    Flag("--learning-rate", _O + "learning_rate", float, "peak learning rate"),
    Flag("--layer-decay", _O + "layer_decay", float, "factor from one layer to the one below"),
    Flag("--convention", _O + "convention", str, "how depth counts: standard, sun2019, electra"),
    Flag("--head-multiplier", _O + "head_multiplier", float, "factor on the head's rate"),
    Flag("--schedule", _O + "schedule", str, "linear, cosine, constant, one-cycle, ..."),
    Flag("--warmup", _O + "warmup", float, "below 1: share of all steps; from 1: steps"),
    Flag("--optimizer", _O + "optimizer", str, "adamw, adafactor, lamb, lion, sgd"),
    Flag("--weight-decay", _O + "weight_decay", float, "decoupled weight decay"),
    Flag("--clip-norm", _O + "clip_norm", float, "largest norm of the gradient"),
    Flag("--unfreezing", _O + "unfreezing", float, "epochs between a group and the next below"),
    Flag("--epochs", "training.epochs", int, "passes over the training examples"),
    Flag("--batch-size", "training.batch_size", int, "examples in an update"),
    Flag("--accumulation", "training.accumulation", int, "parts an update is computed in"),
    Flag("--parallel", "training.parallel", str, "jit (default: one device), pmap, mesh (all)"),
    Flag("--mesh", "training.mesh", str, "as in data=4,fsdp=2, for --parallel mesh"),
    Flag("--max-length", "training.max_length", int, "tokens kept of a text"),
    Flag("--layout", "training.layout", str, "packed, bucketed, padded: speed, nothing else"),
    Flag("--label-smoothing", "training.label_smoothing", float, "in [0, 1)"),
    Flag("--eval-every", "training.eval_every", int, "steps between evaluations (default: epoch)"),
    Flag("--metric", "training.metric", str, "score by which the best model is chosen"),
    Flag("--patience", "training.patience", int, "evaluations without gain before stopping"),
    Flag("--seed", "training.seed", int, "of order, dropout and new parameters"),
    Flag("--dtype", "dtype", str, "of matrix products: float32, bfloat16"),
    Flag("--param-dtype", "param_dtype", str, "of parameters: float32, bfloat16"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """A resolved run of `jaxbert finetune`; see `FLAGS` for the fields."""

    model: str
    train: str
    output: str
    training: dict[str, Any]
    eval: str | None = None
    test: tuple[str, ...] = ()
    revision: str | None = None
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    strategy: str = "discriminative"
    strategy_file: str | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"
    gradient_checkpointing: bool = False

    def to_json(self) -> str:
        """As a file that `--config` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def add_finetune_flags(parser: argparse.ArgumentParser) -> None:
    """Gives the parser every flag of `FLAGS` and the few that are no plain values."""
    for flag in FLAGS:
        parser.add_argument(flag.name, dest=flag.place, type=flag.type, help=flag.help)
    parser.add_argument(
        "--test", action="append", help="labelled examples to report on; repeatable"
    )
    parser.add_argument(
        "--freeze",
        action="append",
        metavar="GROUP",
        help="group (embeddings, layer_0, ...) or pattern that never moves; repeatable",
    )
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", default=None, help="less memory, slower"
    )
    parser.add_argument("--config", help="TOML or JSON file of these settings")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PLACE=VALUE",
        help="any setting by its place in the file, training.optimizer.beta2=0.98; repeatable",
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """What to do with a run that is there already."""
    parser.add_argument("--overwrite", action="store_true", help="delete the run in --output")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, which the cluster names (SLURM, GKE, TPU pods) or these:",
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    parser.add_argument("--processes", type=int, help="how many there are")
    parser.add_argument("--process-index", type=int, help="which one this is, from 0")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which model, on which columns, in which batches."""
    parser.add_argument("--model", required=True, help="directory or hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--text-pair-column")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128, help="tokens kept of a text")
    parser.add_argument("--dtype", default="float32", help="of matrix products")
    parser.add_argument("--parallel", default="jit", help="jit: one device; pmap, mesh: all")
    parser.add_argument("--mesh", help="as in data=4,fsdp=2, for --parallel mesh")


def add_evaluate_flags(parser: argparse.ArgumentParser) -> None:
    """Of `jaxbert evaluate`."""
    parser.add_argument("data", nargs="+", help="files of labelled examples")
    add_model_flags(parser)
    parser.add_argument("--label-column", default="label")


def add_predict_flags(parser: argparse.ArgumentParser) -> None:
    """Of `jaxbert predict`."""
    parser.add_argument(
        "data", nargs="?", default="-", help="a file; - = a text a line, from input"
    )
    add_model_flags(parser)
    parser.add_argument("--output", help="a file for the JSON lines; default: print them")
    parser.add_argument("--overwrite", action="store_true")


def add_embed_flags(parser: argparse.ArgumentParser) -> None:
    """Of `jaxbert embed`."""
    parser.add_argument(
        "data", nargs="?", default="-", help="a file; - = a text a line, from input"
    )
    add_model_flags(parser)
    parser.add_argument("--output", required=True, help="the .npy file")
    parser.add_argument("--pooling", default="mean", help="mean, first, pooler")
    parser.add_argument("--normalise", action="store_true", help="to length 1")
    parser.add_argument("--overwrite", action="store_true")


def add_rate_flags(parser: argparse.ArgumentParser) -> None:
    """Of `jaxbert lr`: those of `finetune` that concern learning rates, and the length of a run."""
    parser.add_argument("--model", required=True, help="directory, hub id, or preset")
    for flag in FLAGS:
        if flag.place.startswith(("training.optimizer.", "strategy")):
            parser.add_argument(flag.name, dest=flag.place, type=flag.type, help=flag.help)
    parser.add_argument("--freeze", action="append", metavar="GROUP")
    parser.add_argument("--set", action="append", default=[], metavar="PLACE=VALUE")
    parser.add_argument("--steps-per-epoch", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3)


def add_find_flags(parser: argparse.ArgumentParser) -> None:
    """Of `jaxbert lr-find`: the model, the data and the strategy of `finetune`, and the rise."""
    for flag in FLAGS:
        if flag.place not in ("eval", "output", "training.epochs", "training.eval_every"):
            parser.add_argument(flag.name, dest=flag.place, type=flag.type, help=flag.help)
    parser.add_argument("--lowest", type=float, default=1e-5, help="base rate of the first step")
    parser.add_argument("--highest", type=float, default=1e-2, help="base rate of the last step")
    parser.add_argument("--steps", type=int, default=100, help="of a rise (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rises (default: %(default)s)")


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """Of `jaxbert plan`."""
    parser.add_argument("--topology", required=True, help="chip and slice: v5e:2x4, h100:8, ...")
    parser.add_argument("--model", required=True, help="published name, directory, or hub id")
    parser.add_argument("--batch-size", type=int, default=32, help="examples, of all devices")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of every example")
    parser.add_argument("--mesh", help="as in data=4,fsdp=2 (default: all along data)")
    parser.add_argument("--optimizer", default="adamw", help="adamw, adafactor, lamb, lion, sgd")
    parser.add_argument("--dtype", default="bfloat16", help="of matrix products")
    parser.add_argument("--param-dtype", default="float32", help="of parameters")
    parser.add_argument("--attention-dropout", type=float, help="in place of the model's own rate")
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="compute layers twice, keep less"
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="the largest batch that fits, and the smallest slice that holds --batch-size",
    )
    parser.add_argument("--json", metavar="FILE", help="append each plan to it, as a line")


def add_lab_flags(parser: argparse.ArgumentParser) -> None:
    """Of every command of the lab: the model, the data, and what all runs share."""
    parser.add_argument("--output", required=True, help="directory; what it holds is not run again")
    parser.add_argument("--model", help="directory or hub id; without it the demo's model and data")
    parser.add_argument("--train", help="labelled examples that training sets are drawn from")
    parser.add_argument("--eval", help="development set: chooses base rates")
    parser.add_argument("--test", help="test set of the same kind as the training set")
    parser.add_argument(
        "--out-of-domain",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="test set from elsewhere; repeatable",
    )
    parser.add_argument("--neutral", help="texts to compare representations on (default: the test)")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--text-pair-column")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128, help="tokens kept of a text")
    parser.add_argument("--dtype", default="float32", help="of matrix products")


def add_study_flags(parser: argparse.ArgumentParser) -> None:
    """Of `jaxbert lab run`."""
    add_lab_flags(parser)
    parser.add_argument(
        "--strategies",
        type=_listed(str),
        default="high,pretraining,constant,annealing,cyclical,discriminative,uniform",
        help="names, with commas (default: %(default)s)",
    )
    parser.add_argument("--strategy-file", help="TOML file with strategies of your own")
    parser.add_argument("--control", default="uniform", help="the one to compare with")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument(
        "--train-sizes", type=_listed(str), default="full", help="as in 200,1000,full"
    )
    parser.add_argument(
        "--epochs", type=_listed(int), default="3", help="one for all sizes, or one for each"
    )
    parser.add_argument(
        "--grid",
        type=_listed(float),
        default=(),
        metavar="RATES",
        help="base rates; each strategy takes its best on --eval (default: its own rate)",
    )


def add_sweep_flags(parser: argparse.ArgumentParser) -> None:
    """Of `jaxbert lab sweep`."""
    add_lab_flags(parser)
    parser.add_argument("--strategy", default="discriminative", help="what is not swept")
    parser.add_argument("--rates", type=_listed(float), default="2e-5,5e-5,1e-4,4e-4")
    parser.add_argument("--decays", type=_listed(float), default="1.0,0.95,0.9,0.8")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each (default: %(default)s)")
    parser.add_argument("--train-size", default="full", help="a number, or full")
    parser.add_argument("--epochs", type=int, default=3)


def _listed(kind: type) -> Any:
    """A parser of values with commas between them."""

    def parse(text: str) -> tuple[Any, ...]:
        return tuple(kind(part.strip()) for part in text.split(","))

    parse.__name__ = f"list of {kind.__name__}"  # in argparse's message
    return parse


def resolve(flags: Mapping[str, Any]) -> FinetuneOptions:
    """The run that these flags, and the file they name, ask for.

    Args:
      flags: the parsed command line; None = not given.

    Raises:
      ValueError: unknown keys, missing or bad values: of the file, the flags, the strategy.
    """
    from jaxbert.training import TrainConfig

    given = _from_flags(flags)
    settings = _read_file(Path(flags["config"])) if flags.get("config") else {}
    if "strategy" in given:
        # Another strategy takes no learning rates from the file: they were meant for the file's.
        settings.get("training", {}).pop("optimizer", None)
    settings = _merged(settings, given)
    training = dict(settings.pop("training", {}))
    optimizer = _strategy(settings).config(**training.pop("optimizer", {}))
    config = TrainConfig.from_dict(training | {"optimizer": optimizer})
    return _checked(settings, dataclasses.asdict(config))


def _strategy(settings: Mapping[str, Any]) -> Any:
    from jaxbert.optim import DEFAULT_STRATEGY, STRATEGIES, get_strategy, load_strategies

    path = settings.get("strategy_file")
    known = load_strategies(path) if path else STRATEGIES
    return get_strategy(settings.get("strategy", DEFAULT_STRATEGY), known)


def _checked(settings: dict[str, Any], training: dict[str, Any]) -> FinetuneOptions:
    fields = {field.name: field for field in dataclasses.fields(FinetuneOptions)}
    unknown = sorted(set(settings) - set(fields))
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}; known are {', '.join(fields)}")
    missing = [n for n in ("model", "train", "output") if not settings.get(n)]
    if missing:
        raise ValueError(f"missing: {', '.join(f'--{name}' for name in missing)}")
    settings["test"] = tuple(settings.get("test") or ())
    return FinetuneOptions(training=training, **settings)


def _from_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, as a nested mapping."""
    settings: dict[str, Any] = {}
    for flag in FLAGS:
        if flags.get(flag.place) is not None:
            _put(settings, flag.place, flags[flag.place])
    for name in ("test", "gradient_checkpointing"):
        if flags.get(name):
            settings[name] = flags[name]
    if flags.get("freeze"):
        _put(settings, _O + "frozen", flags["freeze"])
    for assignment in flags.get("set") or ():
        place, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: want PLACE=VALUE")
        _put(settings, place, _parse_value(value))
    return settings


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None if text in ("None", "null") else text


def _put(settings: dict[str, Any], place: str, value: Any) -> None:
    *folders, name = place.split(".")
    for folder in folders:
        settings = settings.setdefault(folder, {})
        if not isinstance(settings, dict):
            raise ValueError(f"{place}: {folder} is a value, it holds no settings")
    settings[name] = value


def _read_file(path: Path) -> dict[str, Any]:
    """A TOML or JSON file of settings."""
    text = path.read_text(encoding="utf-8")
    try:
        settings = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ValueError(f"{path} is no {kind} file: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: want settings by name, got {type(settings).__name__}")
    return settings


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged
