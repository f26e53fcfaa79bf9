"""The named learning-rate strategies, as rows: each fixes some fields of `OptimizerConfig`.

What a row leaves out keeps `OptimizerConfig`'s default, and what a user sets wins over the row. The
learning rates are for a model of BERT-base's size; the rows are starting points to compare, and
none is tuned to a task.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from jaxbert.errors import InputError
from jaxbert.optim.config import DEFAULT_STRATEGY as DEFAULT_STRATEGY
from jaxbert.optim.config import OptimizerConfig
from jaxbert.optim.exploratory import EXPLORATORY
from jaxbert.settings import check_keys, is_number, modern


@dataclass(frozen=True)
class Strategy:
    """A named way to set the learning rates.

    Attributes:
      name: as on the command line.
      about: one line.
      source: where it comes from, and where the row departs from that.
      settings: {field of OptimizerConfig: value}.
      epochs: how long it wants to train; None = as long as anybody. A hint.
      tuned: whether a comparison may choose its base rate; False where the rate is the claim.

    Raises:
      InputError: on construction, for bad values and settings that no `OptimizerConfig` takes.

    Example:
      >>> Strategy("mine", "gentle", "", {"learning_rate": 2e-5}).config().learning_rate
      2e-05
    """

    name: str
    about: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: float | None = None
    tuned: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.tuned, bool):
            raise InputError(f"strategy {self.name!r}: tuned={self.tuned!r} must be true or false")
        if self.epochs is not None and not (is_number(self.epochs) and self.epochs > 0):
            raise InputError(f"strategy {self.name!r}: epochs={self.epochs!r} must be positive")
        try:
            self.config()
        except ValueError as error:
            raise InputError(f"strategy {self.name!r}: {error}") from error

    def config(self, **overrides: Any) -> OptimizerConfig:
        """The row as a configuration; `overrides` win over the row.

        Another schedule takes no options from the row's: they were meant for the row's own.

        Raises:
          InputError: unknown names, bad values.
        """
        # Today's names first, or an old one in the row would not give way to its new one.
        settings, overrides = (modern(OptimizerConfig, s) for s in (self.settings, overrides))
        if overrides.get("schedule", settings.get("schedule")) != settings.get("schedule"):
            settings.pop("schedule_options", None)
        return OptimizerConfig.from_dict({**settings, **overrides})


ALL_BUT_HEAD = r"embeddings|layer_\d+|final_norm|pooler"

_ROWS = (
    # The five under discussion in this project, and their control.
    Strategy(
        "high",
        "a very high rate throughout",
        "claim 1 of the project: ten times the pre-training rate of Devlin et al. 2019, never "
        "lowered",
        {"learning_rate": 1e-3, "schedule": "constant"},
        tuned=False,
    ),
    Strategy(
        "pretraining",
        "the pre-training rate, unchanged",
        "claim 2: the peak and the warm-up (10,000 of 1,000,000 steps) of Devlin et al. 2019, "
        "appendix A.2, then constant, since the decay is what `annealing` adds",
        {"learning_rate": 1e-4, "schedule": "constant", "warmup": 0.01},
        tuned=False,
    ),
    Strategy(
        "constant",
        "one rate, never lowered: the shape of `high` and `pretraining`, at a rate of its own",
        "separates what those two claim of the rate from what a constant rate does; 5e-5 is the "
        "highest of Devlin et al. 2019's grid",
        {"learning_rate": 5e-5, "schedule": "constant", "warmup": 0.01},
    ),
    Strategy(
        "annealing",
        "starts relatively high, then falls along a cosine, every layer alike",
        "claim 3: Loshchilov & Hutter 2017 without restarts, from the pre-training rate",
        {"learning_rate": 1e-4, "schedule": "cosine"},
    ),
    Strategy(
        "cyclical",
        "low, up, down, three times",
        "claim 4: Smith 2017, `triangular`, between a quarter of the peak and the peak",
        {"learning_rate": 5e-5, "schedule": "triangular"},
    ),
    Strategy(
        "discriminative",
        "lower than in pre-training, and lower for each layer further down",
        "claim 5: half the pre-training rate, warm-up and linear decay of Devlin et al. 2019, "
        "decay .9 between Sun et al. 2019 (.95) and ELECTRA (.8 for base); not tuned: the default "
        "is to follow the comparisons this project makes",
        {"learning_rate": 5e-5, "schedule": "linear", "warmup": 0.1, "layer_decay": 0.9},
    ),
    Strategy(
        "uniform",
        "one low rate for every layer: the control that separates `lower` from `layer-wise`",
        "`discriminative` without decay; 3e-5 is the middle of Devlin's grid and about the mean "
        "over 12 layers of discriminative's rates (2.7e-5)",
        {"learning_rate": 3e-5, "schedule": "linear", "warmup": 0.1},
    ),
    # From the literature.
    Strategy(
        "devlin2019",
        "BERT as published: one rate, Adam without bias correction",
        "google-research/bert, README (sentence tasks: 2e-5, 3 epochs, batch 32) and "
        "optimization.py (Adam without bias correction, eps 1e-6, weight decay .01, clip 1)",
        {
            "learning_rate": 2e-5,
            "schedule": "linear",
            "warmup": 0.1,
            "bias_correction": False,
            "epsilon": 1e-6,
        },
        epochs=3,
    ),
    Strategy(
        "ulmfit",
        "each layer 1/2.6 of the one above, slanted triangle, one more layer each epoch",
        "Howard & Ruder 2018, sections 3.2-3.3: cut .1, ratio 32, Adam's beta1 .7 and beta2 .99. "
        "Their base rate, .01, is an LSTM's; here BERT's pre-training rate. A model of n layers "
        "moves as a whole from epoch n + 1 on: give it the epochs, or lower `unfreezing`",
        {
            "learning_rate": 1e-4,
            "layer_decay": 1 / 2.6,
            "schedule": "slanted-triangular",
            "warmup": 0.1,
            "unfreezing": 1.0,
            "beta1": 0.7,
            "beta2": 0.99,
        },
        epochs=15,
    ),
    Strategy(
        "sun2019",
        "decay .95 counted from the top layer",
        "Sun et al. 2019, sections 4 and 5.4: 2e-5, 4 epochs, warm-up .1, BERT's own Adam",
        {
            "learning_rate": 2e-5,
            "layer_decay": 0.95,
            "convention": "sun2019",
            "schedule": "linear",
            "warmup": 0.1,
            "bias_correction": False,
            "epsilon": 1e-6,
        },
        epochs=4,
    ),
    Strategy(
        "zhang2020",
        "decay .95, bias correction, and fresh top layers: for few examples",
        "Zhang et al. 2020, asappresearch/revisit-bert-finetuning, sample_commands: llrd.sh and "
        "reinit.sh in one (2e-5, 3 epochs, no weight decay). They re-initialise 5 of 24 layers in "
        "that example and 1 to 6 by task; 2 is the same share of 12",
        {
            "learning_rate": 2e-5,
            "layer_decay": 0.95,
            "schedule": "linear",
            "warmup": 0.1,
            "weight_decay": 0.0,
            "reinitialize_layers": 2,
        },
        epochs=3,
    ),
    Strategy(
        "mosbach2020",
        "low rate, bias correction, long: the stable recipe",
        "Mosbach et al. 2020, uds-lsv/bert-stable-fine-tuning, configs/rte: 2e-5, 20 epochs, "
        "warm-up .1, eps 1e-6, weight decay .01, clip 1",
        {"learning_rate": 2e-5, "schedule": "linear", "warmup": 0.1, "epsilon": 1e-6},
        epochs=20,
    ),
    Strategy(
        "electra",
        "decay .8 as ELECTRA released it",
        "Clark et al. 2020, google-research/electra, configure_finetuning.py: 1e-4 and .8 (large: "
        "5e-5 and .9), warm-up .1, 3 epochs; Adam without bias correction",
        {
            "learning_rate": 1e-4,
            "layer_decay": 0.8,
            "convention": "electra",
            "schedule": "linear",
            "warmup": 0.1,
            "bias_correction": False,
            "epsilon": 1e-6,
        },
        epochs=3,
    ),
    Strategy(
        "lp-ft",
        "the head alone for one epoch, then everything",
        "Kumar et al. 2022, 'Fine-tuning can distort pretrained features'. They give each phase a "
        "rate and a schedule of its own; here one schedule, and ten times the rate for the head",
        {
            "learning_rate": 3e-5,
            "head_multiplier": 10.0,
            "schedule": "linear",
            "warmup": 0.1,
            "unfreezing": {ALL_BUT_HEAD: 1},
        },
        epochs=4,
    ),
    Strategy(
        "one-cycle",
        "one long rise, one long fall, every layer alike",
        "Smith & Topin 2018, with the defaults of torch's OneCycleLR",
        {"learning_rate": 5e-5, "schedule": "one-cycle"},
    ),
    Strategy(
        "frozen",
        "the head only: a linear probe of the pre-trained model",
        "the baseline of Kumar et al. 2022 and Merchant et al. 2020; a rate for a head alone",
        {"learning_rate": 1e-3, "schedule": "linear", "warmup": 0.1, "frozen": [ALL_BUT_HEAD]},
    ),
    *(Strategy(**row) for row in EXPLORATORY),
)

STRATEGIES: dict[str, Strategy] = {row.name: row for row in _ROWS}


def get_strategy(name: str, strategies: Mapping[str, Strategy] = STRATEGIES) -> Strategy:
    """The strategy of that name.

    Args:
      name: as on the command line.
      strategies: where to look, for instance those of `load_strategies`.

    Returns:
      The strategy.

    Raises:
      InputError: no such name; the known ones are listed.

    Example:
      >>> get_strategy("frozen").about
      'the head only: a linear probe of the pre-trained model'
    """
    if name not in strategies:
        raise InputError(f"strategy={name!r} must be one of {', '.join(strategies)}")
    return strategies[name]


def load_strategies(path: str | Path) -> dict[str, Strategy]:
    r"""The strategies of a TOML file and the built-in ones; a file's row replaces a namesake.

    Each table of the file is a strategy: `about`, `source`, `epochs` and `tuned`, which may be left
    out, and the fields of `OptimizerConfig`:

        [gentle]
        about = "a lower rate, and more of a slope"
        learning_rate = 2e-5
        layer_decay = 0.8
        warmup = 0.1
        multipliers = { pooler = 2.0, ".*/bias" = 0.5 }

    Args:
      path: of the file.

    Returns:
      {name: strategy}, the built-in ones first.

    Raises:
      FileNotFoundError: no such file.
      InputError: no TOML, nothing in it, unknown keys or bad values: all of them, table by table.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     path = Path(directory, "mine.toml")
      ...     _ = path.write_text("[gentle]\nlearning_rate = 2e-5")
      ...     strategies = load_strategies(path)
      >>> strategies["gentle"].config().learning_rate
      2e-05
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise InputError(f"{path} is no TOML file: {error}") from error
    if not tables:
        raise InputError(f"{path} holds no strategy: write a table for each, [its-name]")
    loaded, problems = {}, []
    for name, table in tables.items():
        try:
            loaded[name] = strategy_from_table(name, table)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise InputError(f"{path}: " + "; ".join(problems))
    return {**STRATEGIES, **loaded}


def strategy_from_table(name: str, table: Any) -> Strategy:
    """One strategy from one TOML table; see `load_strategies`.

    Args:
      name: of the strategy.
      table: what the file says of it.

    Returns:
      The strategy.

    Raises:
      InputError: not a table, unknown keys, bad values.

    Example:
      >>> strategy_from_table("gentle", {"learning_rate": 2e-5, "epochs": 5}).epochs
      5
    """
    own = ("about", "source", "epochs", "tuned")
    if not isinstance(table, Mapping):
        raise InputError(f"strategy {name!r} must be a table, [{name}], not {table!r}")
    known = [*own, *(item.name for item in fields(OptimizerConfig))]
    table = modern(OptimizerConfig, table)
    check_keys(f"strategy {name!r}", table, known)
    settings = {key: value for key, value in table.items() if key not in own}
    return Strategy(
        name,
        about=table.get("about", ""),
        source=table.get("source", "a file of the user's"),
        settings=settings,
        epochs=table.get("epochs"),
        tuned=table.get("tuned", True),
    )
