"""What is fuzzed: a row for each thing that reads files."""

import dataclasses
import json
from types import SimpleNamespace

import jax.numpy as jnp
import pyarrow
import pyarrow.parquet
import tiny
import torch_files
import weight_files
from flax import nnx

from jaxbert import AutoModelForSequenceClassification
from jaxbert.atomic import write_text
from jaxbert.cli.options import FinetuneOptions, resolve
from jaxbert.data import load_tokenizer, tokenize
from jaxbert.data.tokenization import save_tokenizer
from jaxbert.models.auto import FAMILIES, AutoConfig, config_class, presets
from jaxbert.optim import OptimizerConfig, load_strategies
from jaxbert.tasks import TEXT_CLASSIFICATION, load_examples, task_class
from jaxbert.training import run_directory
from jaxbert.training.checkpoint import Checkpoints
from jaxbert.training.embedding import own_max_length
from jaxbert.training.lock import held
from jaxbert.training.record import Record
from jaxbert.training.sentences import read_form
from jaxbert.training.step import TrainState
from tests.fuzz.cases import Target
from tests.fuzz.mutation import mutated_json, mutated_json_lines, mutated_text

MODEL = tiny.encoder()
ROWS = list(zip(tiny.TEXTS, tiny.LABELS.tolist(), strict=True))


# --- weights and models


def read_weights(path):
    weight_files.read_all(path.parent)


def pickles(directory):
    """Beneath the checksum of a zip archive's pickle."""
    values = {name: torch_files.tensor() for name in "abc"}
    pickle = torch_files.pickle_of(torch_files.ORDERED_DICT + torch_files.mapping(**values)[1:])
    (directory / "pickle").write_bytes(pickle)


def read_pickle(path):
    path.with_name("model.pt").write_bytes(torch_files.archive(path.read_bytes()))
    read_weights(path)


def configs(directory):
    """Of every published model."""
    for name in presets():
        (directory / name).mkdir()
        write_text(directory / name / "config.json", json.dumps(AutoConfig.preset(name).to_hf()))


SMALL = dict(tiny.SHAPE, max_position_embeddings=20, pad_token_id=0)


def models(directory):
    """One of every family."""
    for family in FAMILIES:
        config = config_class(family)(**SMALL)
        made = task_class(TEXT_CLASSIFICATION, family)(config, rngs=nnx.Rngs(0))
        (directory / family).mkdir()
        made.save_pretrained(directory / family)


def model(directory):
    tiny.model().save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(tiny.WORDS))
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')


def read_model(path):
    AutoModelForSequenceClassification.from_pretrained(path.parent)


def read_length(path):
    own_max_length(MODEL, SimpleNamespace(model_max_length=16), path.parent)


# --- texts


def tokenizer(directory):
    (directory / "vocab.txt").write_text("\n".join(tiny.WORDS))
    save_tokenizer(load_tokenizer(directory), directory)


def read_tokenizer(path):
    tokenize(tiny.CLASSES, load_tokenizer(path.parent), 8)


def table(name, content):
    """A file of that name and content."""
    return lambda directory: (directory / name).write_bytes(content.encode())


def csv(separator):
    rows = [f'"{text}"{separator}{label}' for text, label in ROWS]
    return "\n".join([f"text{separator}label", *rows])


RECORDS = [{"text": text, "label": label} for text, label in ROWS]


def parquet(directory):
    found = pyarrow.Table.from_pylist(RECORDS)
    pyarrow.parquet.write_table(found, directory / "data.parquet")


def read_examples(path):
    load_examples(path, label_column="label")


CONLL = "-DOCSTART- O\n\n" + "\n".join(f"{w}\tB-film\n{w} I-film\n" for w in tiny.WORDS[5:12])
_ANSWERS = [{"text": "good", "answer_start": 2}]
_ASKED = [{"id": "1", "question": "how", "answers": _ANSWERS, "is_impossible": False}]
SQUAD = {"version": "2.0", "data": [{"paragraphs": [{"context": "a good film", "qas": _ASKED}]}]}
CHOICES = [{"question": "how", "choices": ["good", "dull"], "label": 1}] * 3
SETS = [{"text": "a film", "label": ["good", "warm"]}, {"text": "cold", "label": []}]


def read_labelled(path):
    load_examples(path)


def sentences(directory):
    """A directory of sentence-transformers, without its network."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"models.{kind}"} for path, kind in kinds.items()]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode": ["mean", "cls"]}')
    prompts = {"prompts": {"query": "ask: "}, "default_prompt_name": "query"}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))


def read_sentences(path):
    here = path.parent
    read_form(here if (here / "modules.json").is_file() else here.parent).prompt(None)


def read_texts(path):
    load_examples(path)


# --- settings and runs


def toml(directory):
    settings = """
    model = "bert"\ntrain = "train.csv"\noutput = "out"\ntest = ["a.csv", "b.csv"]
    [columns]\ntext_column = "text"\n[compute]\ndtype = "bfloat16"
    [training]\nepochs = 2\nseed = 3\nlayout = "padded"
    [training.optimizer]\nlearning_rate = 1e-4\nfrozen = ["embeddings"]\nwarmup = 0.1
    schedule = "linear"\n[training.optimizer.schedule_options]\nend = 0.1
    """
    (directory / "run.toml").write_text("\n".join(map(str.strip, settings.splitlines())))


def settings(directory):
    options = {"model": "bert", "train": "train.csv", "output": "out"}
    (directory / "finetune.json").write_text(resolve(FinetuneOptions, options).to_json())


def read_settings(path):
    resolve(FinetuneOptions, {}, path)


def strategies(directory):
    rows = "[mine]\nlearning_rate = 1e-4\nlayer_decay = 0.9\nschedule = 'linear'\n"
    (directory / "mine.toml").write_text(rows)


RUN = {
    "status": "interrupted",
    "step": 4,
    "task": "text-classification",
    "config": {
        "epochs": 3,
        "optimizer": json.loads(
            json.dumps(dataclasses.asdict(OptimizerConfig(learning_rate=1e-3)))
        ),
    },
    "compute": {"dtype": "float32"},
    "model_config": {"hidden_size": 16},
    "data": {"train": {"fingerprint": "ab"}, "evaluation": {"fingerprint": "cd"}},
    "scores": {"dev": {"accuracy": 0.5}},
}


def run(directory):
    for name in ("", "unfinished"):
        folder = directory / name
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(json.dumps(RUN))
        (folder / "metrics.jsonl").write_text('{"event": "train", "step": 1}\n')
        (folder / "checkpoints" / "1").mkdir(parents=True)


def read_run(path):
    directory = path.parents[path.parent.name == "unfinished"]
    run_directory.check(directory, overwrite=True)
    run_directory.check_same(directory, RUN)


def replacement(directory):
    """Of which ready.json says that it is complete."""
    run(directory)
    (directory / "unfinished" / "ready.json").write_text('["run.json", "metrics.jsonl"]')


def settle(path):
    run_directory.settle(path.parent.parent)


def metrics(directory):
    lines = [
        {"event": event, "step": step, "loss": 0.5, "rates": {"head": 1e-3}}
        for step in range(1, 5)
        for event in ("train", "eval")
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def resume_metrics(path):
    Record(path.parent, 3, 2).close()


def lock(directory):
    with held(directory):
        content = (directory / "run.lock").read_bytes()
    (directory / "run.lock").write_bytes(content.replace(b'"pid": ', b'"pid": 9999'))


def take_lock(path):
    with held(path.parent):
        pass


def state():
    """The smallest that is one."""
    values = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}
    return TrainState(jnp.int32(4), jnp.uint32(7), values, {"mu": jnp.zeros(3)})


def checkpoints(directory):
    kept = Checkpoints(directory / "checkpoints")
    kept.save(state(), {"epoch": 1, "history": []})
    kept.close()


def restore(path):
    while path.name != "checkpoints":
        path = path.parent
    kept = Checkpoints(path)
    try:
        kept.restore(state())
    finally:
        kept.close()


# A table of records and of separated values, and so on: another target is another row.
TARGETS: dict[str, Target] = {
    **{
        name: Target(write, read_weights)
        for name, write in (
            ("safetensors", weight_files.safetensors),
            ("safetensors in shards", weight_files.safetensors_shards),
            ("PyTorch zip", weight_files.torch_zip),
            ("PyTorch zip in shards", weight_files.torch_zip_shards),
            ("msgpack", weight_files.msgpack),
            ("msgpack in chunks", weight_files.msgpack_chunks),
            ("TensorFlow", weight_files.tensorflow),
            ("TensorFlow, snappy, in shards", weight_files.tensorflow_snappy_shards),
        )
    },
    "pickle": Target(pickles, read_pickle, writes=True),
    "config.json": Target(
        configs, lambda path: AutoConfig.from_pretrained(path.parent), mutated_json
    ),
    "config.json with weights": Target(
        models, read_model, mutated_json, files="**/config.json", share=3
    ),
    "model.safetensors of a model": Target(model, read_model, files="*.safetensors", share=2),
    "sentence_bert_config.json": Target(
        model, read_length, mutated_json, files="sentence_bert_config.json", share=5
    ),
    "tokenizer.json": Target(
        tokenizer, read_tokenizer, mutated_json, files="tokenizer.json", share=3
    ),
    "tokenizer_config.json": Target(
        tokenizer, read_tokenizer, mutated_json, files="tokenizer_config.json", share=3
    ),
    "vocab.txt": Target(
        table("vocab.txt", "\n".join(tiny.WORDS)), read_tokenizer, mutated_text, share=3
    ),
    "csv": Target(table("data.csv", csv(",")), read_examples, mutated_text),
    "tsv": Target(table("data.tsv", csv("\t")), read_examples, mutated_text),
    "jsonl": Target(
        table("data.jsonl", "".join(json.dumps(row) + "\n" for row in RECORDS)),
        read_examples, mutated_json_lines,
    ),
    "json": Target(table("data.json", json.dumps(RECORDS)), read_examples, mutated_json),
    "conll": Target(table("data.conll", CONLL), read_labelled, mutated_text),
    "SQuAD": Target(table("data.json", json.dumps(SQUAD)), read_labelled, mutated_json),
    "choices": Target(table("data.json", json.dumps(CHOICES)), read_labelled, mutated_json),
    "label sets": Target(table("data.json", json.dumps(SETS)), read_examples, mutated_json),
    "modules.json": Target(sentences, read_sentences, mutated_json, files="**/*.json"),
    "txt": Target(table("data.txt", "\n".join(tiny.TEXTS)), read_texts, mutated_text, share=5),
    "parquet": Target(parquet, read_examples),
    "settings in TOML": Target(toml, read_settings, mutated_text),
    "settings in JSON, finetune.json": Target(settings, read_settings, mutated_json),
    "strategies": Target(strategies, load_strategies, mutated_text),
    "run.json": Target(run, read_run, mutated_json, files="**/run.json"),
    "metrics.jsonl": Target(metrics, resume_metrics, mutated_json_lines, share=3, writes=True),
    "ready.json": Target(replacement, settle, mutated_json, files="**/ready.json", writes=True),
    "run.lock": Target(lock, take_lock, mutated_json, writes=True),
    "checkpoint": Target(checkpoints, restore, share=1, writes=True),
}  # fmt: skip
