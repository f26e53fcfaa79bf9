"""The command `jaxbert`: with `lab_cli`, all that prints to the terminal, and all that exits."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

BAD_INPUT, DIVERGED, LOST = 2, 3, 4
INTERRUPTED, PREEMPTED = 130, 143  # as of a process that SIGINT or SIGTERM has ended
SETTINGS = "finetune.json"

# glibc gives large blocks back to the system after each use and faults them in again at the next:
# a third of a training step on a CPU. One arena: what one thread gave back, another can use without
# new pages. Read once, when a process starts.
ALLOCATOR = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:"
    "glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=1073741824:"
    "glibc.malloc.arena_max=1"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    if argv is None:
        _restart_with_allocator()
    _prepare()
    if not getattr(args, "distributed", False):
        return _guarded(args)
    try:
        status = _guarded(args)
    except Exception:
        traceback.print_exc()
        status = 1
    if status in (1, BAD_INPUT, LOST):
        # An ordinary end would wait for the other processes, and they wait for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _guarded(args: argparse.Namespace) -> int:
    """The command, with every expected failure in one line and a status of its own."""
    try:
        args.command(args)
    except BrokenPipeError:
        # The reader of our output has gone: nothing is wrong, but Python would complain on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as stop:
        preempted = type(stop).__name__ == "Preempted"
        hint = ""
        if getattr(args, "output", None) and (Path(args.output) / SETTINGS).is_file():
            hint = f"; continue with: jaxbert finetune --resume --output {args.output}"
        if preempted:
            return _complain(f"preempted{hint}", PREEMPTED)
        return _complain(f"stopped{hint}", INTERRUPTED)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if args.traceback:
            raise
        return _complain(str(error), BAD_INPUT)
    except RuntimeError as error:
        status = {"DivergedError": DIVERGED, "LostProcessError": LOST}.get(type(error).__name__)
        if status is None:
            raise
        return _complain(str(error), status)
    return 0


def _complain(message: str, status: int) -> int:
    print(f"jaxbert: {message}", file=sys.stderr)
    return status


def _restart_with_allocator() -> None:
    """Starts again with the allocator set for large arrays, on Linux without an accelerator."""
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return
    if os.environ.get("JAX_PLATFORMS", "cpu") != "cpu" or Path("/dev/nvidia0").exists():
        return
    os.environ["GLIBC_TUNABLES"] = ALLOCATOR
    os.execv(sys.executable, [sys.executable, "-m", "jaxbert", *sys.argv[1:]])


def _prepare() -> None:
    """Logging, and libraries that would talk."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("jaxbert").setLevel(logging.INFO)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _keep_compiled_programs() -> None:
    """Lets JAX find the programs that an earlier command compiled."""
    import jax

    from jaxbert.data import cache_directory

    jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "programs"))


def _parser() -> argparse.ArgumentParser:
    from jaxbert import options

    parser = argparse.ArgumentParser(
        prog="jaxbert", description="Fine-tune BERT in JAX, with a learning rate for every layer."
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable[[Any], None], about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(command=run)
        return sub

    finetune = command("finetune", _finetune, "fine-tune a pre-trained model on labelled texts")
    options.add_finetune_flags(finetune)
    options.add_run_flags(finetune)
    options.add_evaluate_flags(command("evaluate", _evaluate, "score a fine-tuned model"))
    options.add_predict_flags(command("predict", _predict, "label texts: one JSON line for each"))
    options.add_embed_flags(command("embed", _embed, "sentence embeddings, to a .npy file"))
    options.add_rate_flags(command("lr", _rates, "print every group's learning rates"))
    options.add_plan_flags(command("plan", _plan, "what training would take of rented hardware"))
    find = command("lr-find", _in_lab("lr_find"), "range test: how high a rate can be")
    options.add_find_flags(find)
    demo = command("demo", _demo, "fetch a small BERT and film reviews, fine-tune, and score")
    demo.add_argument("--output", default="runs/demo", help="directory for the run")
    demo.add_argument("--dtype", default="float32", help="of matrix products")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--overwrite", action="store_true", help="train again")
    lab = commands.add_parser("lab", help="compare learning-rate strategies with evidence")
    commands = lab.add_subparsers(required=True, metavar="command")
    options.add_study_flags(command("run", _in_lab("run"), "strategies x train sizes x seeds"))
    options.add_sweep_flags(command("sweep", _in_lab("sweep"), "learning rates x layer decays"))
    report = command("report", _in_lab("report"), "one page of what a study or a sweep found")
    report.add_argument("study", help="what `lab run` or `lab sweep` wrote")
    report.add_argument("--output", help="directory (default: report/ in the study)")
    return parser


def _finetune(args: argparse.Namespace) -> None:
    from jaxbert.options import resolve

    flags = vars(args)
    if args.resume and not args.config and args.output:
        path = Path(args.output) / SETTINGS
        if not path.is_file():
            raise FileNotFoundError(f"{args.output} holds no run to resume ({SETTINGS} is missing)")
        flags = flags | {"config": str(path)}
    options = resolve(flags)
    if args.distributed:
        from jaxbert.training.distributed import is_first, start

        start(args.coordinator, args.processes, args.process_index)
        if not is_first():
            logging.getLogger("jaxbert").setLevel(logging.WARNING)
    _run(options, overwrite=args.overwrite, resume=args.resume)


def _run(options: Any, *, overwrite: bool, resume: bool) -> None:
    """Fine-tunes, scores the test files, and prints the table."""
    from jaxbert.data import cache_directory, load_examples, load_tokenizer
    from jaxbert.models import BertForSequenceClassification
    from jaxbert.training import TrainConfig, Trainer
    from jaxbert.training.distributed import is_first
    from jaxbert.training.record import read_run, replace_text, write_run
    from jaxbert.weights.pretrained import model_directory

    _keep_compiled_programs()
    columns = {
        "text_column": options.text_column,
        "text_pair_column": options.text_pair_column,
        "label_column": options.label_column,
    }
    train = load_examples(options.train, **columns)
    known = {"label_names": train.label_names, "problem_type": train.problem_type}
    others = [path for path in (options.eval, *options.test) if path]
    examples = {path: load_examples(path, **columns, **known) for path in others}
    directory = model_directory(options.model, options.revision)
    target = {"num_labels": 1} if train.label_names is None else {"labels": train.label_names}
    model = BertForSequenceClassification.from_pretrained(
        directory,
        **target,
        dtype=options.dtype,
        param_dtype=options.param_dtype,
        gradient_checkpointing=options.gradient_checkpointing,
        seed=options.training["seed"],
    )
    trainer = Trainer(
        model,
        load_tokenizer(directory),
        train=train,
        evaluation=examples.get(options.eval),
        config=TrainConfig.from_dict(options.training),
        output=options.output,
        overwrite=overwrite,
        resume=resume,
        about={"model": options.model, "strategy": options.strategy},
        cache_dir=cache_directory() / "tokens",
    )
    output = Path(options.output)
    if is_first():
        replace_text(output / SETTINGS, options.to_json())
    trainer.fit()
    names = _names(list(examples))
    scores = {
        names[path]: {"examples": len(found), **trainer.evaluate(found)}
        for path, found in examples.items()
    }
    if not is_first():
        return
    run = read_run(output) | {
        "scores": scores,
        "peak_memory_bytes": _peak_memory(),
    }
    write_run(output, run)
    _print_results(run, output)


def _names(paths: list[str]) -> dict[str, str]:
    """What each file is called in the results: its stem, or its path where two share a stem."""
    stems = [Path(path).stem for path in paths]
    return {
        path: stem if stems.count(stem) == 1 else path
        for path, stem in zip(paths, stems, strict=True)
    }


def _peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _print_results(run: dict[str, Any], output: Path) -> None:
    scores = run["scores"]
    names = list(next(iter(scores.values()), {}))
    rows = [[name, *(_number(v) for v in values.values())] for name, values in scores.items()]
    if rows:
        _print_table(["data", *names], rows)
    compilation, data = run["compilation"], run["data"]
    print(
        f"{run['step']} steps in {run['seconds']:.0f} s, of which {compilation['seconds']:.0f} s "
        f"compiling {len(compilation['train_shapes'])} of at most "
        f"{compilation['possible_shapes']} batch shapes; "
        f"{run['seconds_waiting_for_data']:.1f} s waiting for data; "
        f"peak memory {run['peak_memory_bytes'] / 2**30:.2f} GiB"
    )
    print(
        f"{data['packing_efficiency']:.0%} of the computed tokens are text, "
        f"{data['truncated_examples']} examples were cut to "
        f"{run['config']['max_length']} tokens"
    )
    print(f"model, metrics and configuration: {output}")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _print_table(header: list[str], rows: Iterable[list[str]]) -> None:
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        cells = [first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]
        print("  ".join(cells).rstrip())


def _load_classifier(args: argparse.Namespace) -> Any:
    """A trainer around a fine-tuned model, for evaluation and prediction."""
    from jaxbert.data import load_tokenizer
    from jaxbert.models import BertForSequenceClassification
    from jaxbert.training import TrainConfig, Trainer
    from jaxbert.weights.pretrained import load_pretrained, model_directory

    _keep_compiled_programs()
    directory = model_directory(args.model, args.revision)
    model, report = load_pretrained(BertForSequenceClassification, directory, dtype=args.dtype)
    if report.initialised:
        raise ValueError(
            f"{args.model} is not fine-tuned: it lacks {', '.join(report.initialised)}; "
            "run jaxbert finetune first"
        )
    config = TrainConfig(
        batch_size=args.batch_size,
        max_length=args.max_length,
        parallel=args.parallel,
        mesh=args.mesh,
    )
    return Trainer(model, load_tokenizer(directory), config=config)


def _evaluate(args: argparse.Namespace) -> None:
    from jaxbert.data import load_examples

    trainer = _load_classifier(args)
    config = trainer.model.config
    labels = config.id2label or tuple(map(str, range(config.num_labels)))
    scores = {}
    for path in args.data:
        examples = load_examples(
            path,
            text_column=args.text_column,
            text_pair_column=args.text_pair_column,
            label_column=args.label_column,
            label_names=None if trainer.problem_type == "regression" else labels,
            problem_type=trainer.problem_type,
        )
        scores[path] = {"examples": len(examples), **trainer.evaluate(examples)}
    header = ["data", *next(iter(scores.values()))]
    _print_table(header, ([p, *map(_number, row.values())] for p, row in scores.items()))


def _read_texts(args: argparse.Namespace) -> Any:
    """Examples without labels from a file, or a text a line from standard input."""
    from jaxbert.data import Examples, load_examples

    if args.data != "-":
        return load_examples(
            args.data, text_column=args.text_column, text_pair_column=args.text_pair_column
        )
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8: {error}") from None
    texts = tuple(text.splitlines())
    if not texts:
        raise ValueError("standard input is empty: want a text a line")
    return Examples(texts, source="standard input")


def _free_output(args: argparse.Namespace) -> Path:
    path = Path(args.output)
    if path.exists() and not args.overwrite:
        raise FileExistsError(f"{path} is there already; add --overwrite to replace it")
    return path


def _predict(args: argparse.Namespace) -> None:
    output = _free_output(args) if args.output else None
    predictions = _load_classifier(args).predict(_read_texts(args))
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
    if output is None:
        sys.stdout.writelines(lines)
        sys.stdout.flush()
    else:
        output.write_text("".join(lines), encoding="utf-8")


def _embed(args: argparse.Namespace) -> None:
    import numpy as np

    from jaxbert.data import load_tokenizer
    from jaxbert.models import BertModel
    from jaxbert.training.inference import embed
    from jaxbert.weights.pretrained import model_directory

    output = _free_output(args)
    if output.suffix != ".npy":
        raise ValueError(f"--output {output}: want a name that ends in .npy")
    _keep_compiled_programs()
    directory = model_directory(args.model, args.revision)
    vectors = embed(
        BertModel.from_pretrained(directory, dtype=args.dtype),
        load_tokenizer(directory),
        _read_texts(args),
        pooling=args.pooling,
        normalise=args.normalise,
        batch_size=args.batch_size,
        max_length=args.max_length,
        parallel=args.parallel,
        mesh=args.mesh,
    )
    np.save(output, vectors)
    print(f"{output}: {vectors.shape[0]} vectors of width {vectors.shape[1]}")


def _model_config(model: str) -> Any:
    """Of a published model by name, of a directory, or of a hub id."""
    from jaxbert.models import PRESETS, BertConfig
    from jaxbert.weights.formats import read_json
    from jaxbert.weights.pretrained import CONFIG, model_directory

    if model in PRESETS:
        return BertConfig.preset(model)
    return BertConfig.from_hf(read_json(model_directory(model) / CONFIG))


def _rates(args: argparse.Namespace) -> None:
    from flax import nnx

    from jaxbert.models import BertForSequenceClassification
    from jaxbert.optim import format_group_table, group_table
    from jaxbert.options import resolve
    from jaxbert.training import TrainConfig

    config = _model_config(args.model)
    unused = {"train": "-", "output": "-"}
    options = resolve(vars(args) | unused)
    optimizer = TrainConfig.from_dict(options.training).optimizer

    def build() -> Any:
        return nnx.state(BertForSequenceClassification(config, rngs=nnx.Rngs(0)))

    params = nnx.to_pure_dict(nnx.eval_shape(build))
    total = args.epochs * args.steps_per_epoch
    print(
        f"strategy {options.strategy}, {optimizer.optimizer}, {optimizer.schedule}, {total} steps"
    )
    print(format_group_table(group_table(optimizer, params, total, args.steps_per_epoch)))


def _demo(args: argparse.Namespace) -> None:
    from jaxbert.data import load_demo
    from jaxbert.options import resolve
    from jaxbert.training.record import RUN, read_run

    output = Path(args.output)
    stopped = (output / RUN).is_file() and not args.overwrite
    if stopped:
        run = read_run(output)
        if "scores" in run:
            print("this run is finished already; --overwrite trains again", file=sys.stderr)
            _print_results(run, output)
            return
    files = load_demo()
    settings = {
        "model": str(files.model),
        "train": str(files.train),
        "eval": str(files.dev),
        "test": [str(files.test), *map(str, files.out_of_domain.values())],
        "output": str(output),
        "training.seed": args.seed,
        "dtype": args.dtype,
    }
    _run(resolve(settings), overwrite=args.overwrite, resume=stopped)


def _plan(args: argparse.Namespace) -> None:
    # Nothing is run, so JAX must not look for devices; it reads this when it is imported.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from jaxbert import plan_cli

    plan_cli.run(args, _model_config(args.model))


def _in_lab(name: str) -> Callable[[Any], None]:
    """The command of that name in `lab_cli`."""

    def run(args: argparse.Namespace) -> None:
        from jaxbert import lab_cli

        _keep_compiled_programs()
        getattr(lab_cli, name)(args)

    return run
