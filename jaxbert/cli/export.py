"""`jaxbert export`: a model as a program that needs JAX alone."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from jaxbert.cli import common, flags
from jaxbert.cli.options import ExportOptions, resolve
from jaxbert.errors import InputError

_TOLERANCE = 1e-4  # in bfloat16 both sides round, and alike


def add_flags(parser: flags.Parser) -> None:
    """Of `jaxbert export`."""
    parser.usage = "%(prog)s --model DIR_OR_ID --output DIR [flags]"
    foreign = ("compute.gradient_checkpointing", "compute.scan_layers")
    flags.add_flags(parser, ExportOptions, without=foreign)


def run(args: argparse.Namespace) -> None:
    """`jaxbert export`."""
    options = resolve(ExportOptions, vars(args))
    output = Path(options.output)
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"output {output} holds something; name another directory")
    from jaxbert.data import load_tokenizer, save_tokenizer
    from jaxbert.training.export import PROGRAM, WEIGHTS, export_model

    directory = common.find_model(options)
    model = common.load_own_model(options, directory)
    length = options.max_length or min(128, model.config.max_tokens)
    difference = export_model(model, output, max_length=length)
    if not difference < _TOLERANCE:
        shutil.rmtree(output)
        raise InputError(
            f"{options.model}: read back, the program differs from the model by {difference:.1e}; "
            "nothing has been kept"
        )
    shutil.copy(directory / "config.json", output)
    save_tokenizer(load_tokenizer(directory), output)
    print(
        f"{output}: {PROGRAM} and {WEIGHTS}, any number of rows of {length} tokens; read back, its "
        f"outputs are within {difference:.1e} of the model's"
    )
