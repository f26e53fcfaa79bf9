"""A directory with a model, data and a finished run, and beside them everything that is wrong."""

import json
import shutil

import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxbert.models import BertConfig, BertForSequenceClassification, BertModel

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] good bad fine awful film plot a the was very".split()  # noqa: SIM905
SHAPE = dict(
    vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=24, max_position_embeddings=16, initializer_range=0.2,
)  # fmt: skip
ROWS = "the film was good,p\nthe plot was bad,n\na very fine film,p\na very awful plot,n\n"

# File: what is in it. All of them are refused, by somebody.
FILES = {
    "empty.csv": "",
    "blank.csv": "\n\n",
    "header.csv": "text,label\n",
    "binary.csv": b"text,label\n\xff\xfe,p\n",
    "utf16.csv": "text,label\ngood,p\n".encode("utf-16"),
    "ragged.csv": "text,label\na,b,c\n",
    "quotes.csv": 'text,label\n"the "film" was",p\n',
    "open.csv": 'text,label\n"the film,p\n',
    "twice.csv": "text,text,label\na,b,c\n",
    "one-label.csv": "text,label\ngood,p\nbad,p\n",
    "no-label.csv": "text,label\ngood,p\nbad,\n",
    "nan-label.csv": "text,label\ngood,p\nbad,NaN\n",
    "mixed.csv": "text,label\ngood,0.5\nbad,n\n",
    "huge.csv": "text,label\ngood,1e39\nbad,0.5\n",
    "other-labels.csv": "text,label\ngood,x\nbad,y\n",
    "scores.csv": "text,label\ngood,0.5\nbad,-1.5\nfine,2.5\nawful,0.25\n",
    "unknown.csv": "text\nzebra\n",
    "only-text.csv": "text\ngood\nbad\n",
    "data.xyz": "text,label\ngood,p\n",
    "torn.jsonl": '{"text": "good", "label": "p"}\n{"text": "ba',
    "list.jsonl": '["good", "p"]\n',
    "null.jsonl": '{"text": "good", "label": "p"}\n{"text": null, "label": "n"}\n',
    "number.jsonl": '{"text": "good", "label": "p"}\n{"text": 3, "label": "n"}\n',
    "labels.jsonl": '{"text": "good", "label": ["p"]}\n{"text": "bad", "label": "n"}\n',
    "bare.tsv": "good film\tp\nbad film\tn\n",
    "sets.jsonl": '{"text": "good", "label": ["p"]}\n{"text": "bad", "label": []}\n',
    "set-twice.jsonl": '{"text": "good", "label": ["p"]}\n{"text": "bad", "label": ["p", "p"]}\n',
    "shares.jsonl": '{"text": "good", "label": [0.5, 0.5]}\n{"text": "bad", "label": [0.5, 0.1]}\n',
    "ones.csv": "text,p,n\ngood,1,0\nbad,0,0.5\n",
    "choices.jsonl": '{"question": "good", "choices": ["a", "b"], "label": 0}\n'
    '{"question": "bad", "choices": ["a", "b"], "label": 2}\n',
    "choice.jsonl": '{"question": "good", "choices": ["a"], "label": 0}\n',
    "choices.csv": "question,choices,label\ngood,a b,0\n",
    "surrogate.jsonl": '{"text": "\\ud800", "label": "p"}\n',
    "deep.jsonl": "[" * 100_000 + "\n",
    "torn.json": '[{"text": "good"',
    "empty.json": "[]",
    "deep.json": "[" * 100_000,
    "passages.jsonl": '{"question": "film", "context": "good", "answers": {"text": ["good"], '
    '"answer_start": [1]}}\n',
    "squad.json": '{"data": [{"paragraphs": [{"context": "good"}]}]}',
    "torn.parquet": b"PAR1 and no more",
    "empty.conll": "",
    "blank.conll": "\n \n\t\n",
    "torn.conll": "the\tO\nfilm\n",
    "one-tag.conll": "the\tO\nfilm\tO\n",
    "tokens.conll": "the\nfilm\n",
    "bioes.conll": "the\tO\nfilm\tS-film\n",
    "tags.conll": "the\tO\nfilm\tB-film\n\nplot\tI-film\n",
    "fewer-tags.jsonl": '{"tokens": ["the", "film"], "tags": ["O"]}\n',
    "no-tag.jsonl": '{"tokens": ["the", "film"], "tags": ["O", null]}\n',
    "words.jsonl": '{"tokens": "the film", "tags": ["O", "O"]}\n',
    "bad.toml": "training = [\n",
    "latin.toml": b"model = '\xff'\n",
    "list-settings.json": "[1, 2]",
    "deep-settings.json": '{"training": ' + "[" * 100_000,
    "column.toml": "[columns]\ntext_column = 3\n",
    "model.toml": "model = 5\n",
    "unknown.toml": "colour = 1\n",
    "training.toml": "training = 5\n",
    "rows.toml": "[training.optimizer]\nmultipliers = 3\n",
    "strategies.toml": "[mine]\nlearning_rate = 'fast'\n",
    "strategies-list.toml": "mine = 3\n",
    "a\x1b[31mred.csv": "",
    "a\u202egnp.csv": "",
}

# Directory: what in its config.json is other than in that of a good model.
CONFIGS = {
    "labels-list": {"id2label": ["a", "b"]},
    "labels-gap": {"id2label": {"0": "a", "2": "b"}},
    "labels-equal": {"id2label": {"0": "a", "1": "a"}},
    "labels-text": {"num_labels": "two", "id2label": None},
    "rate-text": {"hidden_dropout_prob": "high"},
    "rate-list": {"attention_probs_dropout_prob": [0.1]},
    "rate-2": {"hidden_dropout_prob": 2},
    "eps-text": {"layer_norm_eps": "small"},
    "eps-zero": {"layer_norm_eps": 0},
    "range-text": {"initializer_range": "wide"},
    "range-nan": {"initializer_range": float("nan")},
    "pad-text": {"pad_token_id": "[PAD]"},
    "pad-far": {"pad_token_id": 99},
    "layers-many": {"num_hidden_layers": 100_000},
    "layers-text": {"num_hidden_layers": "two"},
    "layers-true": {"num_hidden_layers": True},
    "layers-none": {"num_hidden_layers": 0},
    "width-huge": {"hidden_size": 2**40, "num_attention_heads": 2},
    "width-odd": {"hidden_size": 15},
    "heads-null": {"num_attention_heads": None},
    "vocabulary-huge": {"vocab_size": 10**12},
    "act-list": {"hidden_act": ["gelu"]},
    "act-unknown": {"hidden_act": "swiglu"},
    "positions-relative": {"position_embedding_type": "relative_key"},
    "decoder": {"is_decoder": True},
    "key-unknown": {"rotary": True},
    "type-unknown": {"model_type": "gpt2"},
    "type-missing": {"model_type": None},
    "type-list": {"model_type": ["bert"]},
    "problem-unknown": {"problem_type": "poetry"},
    "problem-list": {"problem_type": ["regression"]},
}


def build(root):
    """Everything below `root`, with relative names as the table has them."""
    config = BertConfig(**SHAPE)
    BertModel(config, rngs=nnx.Rngs(0)).save_pretrained(root / "model")
    _vocabulary(root / "model")
    named = BertConfig(**SHAPE, id2label=("n", "p"), problem_type="single_label_classification")
    BertForSequenceClassification(named, rngs=nnx.Rngs(0)).save_pretrained(root / "tuned")
    _vocabulary(root / "tuned")
    for name in ("train", "dev", "test"):
        (root / f"{name}.csv").write_text("text,label\n" + ROWS * 2)
    for name, content in FILES.items():
        data = content if isinstance(content, bytes) else content.encode()
        (root / name).write_bytes(data)
    _models(root)
    _runs(root)


def _vocabulary(directory, words=WORDS):
    (directory / "vocab.txt").write_text("\n".join(words) + "\n")


def _copy(root, name, source="tuned"):
    shutil.copytree(root / source, root / name)
    return root / name


def _models(root):
    for name, changes in CONFIGS.items():
        path = _copy(root, f"config-{name}") / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    for name, text in (
        ("torn", '{"model_type": "be'), ("list", "[]"), ("empty", ""), ("deep", "[" * 100_000)
    ):  # fmt: skip
        (_copy(root, f"config-{name}") / "config.json").write_text(text)
    (root / "no-model").mkdir()
    (_copy(root, "no-weights") / "model.safetensors").unlink()
    (_copy(root, "no-tokenizer") / "vocab.txt").unlink()
    weights = _copy(root, "weights-torn") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (_copy(root, "weights-text") / "model.safetensors").write_text("no tensors at all")
    for name, change in (
        ("nan", lambda value: value * np.float32("nan")), ("shape", lambda value: value[:-1])
    ):  # fmt: skip
        path = _copy(root, f"weights-{name}") / "model.safetensors"
        tensors = load_file(path)
        tensors["bert.pooler.dense.bias"] = change(tensors["bert.pooler.dense.bias"])
        save_file(tensors, path)
    (_copy(root, "weights-pickle") / "model.safetensors").rename(
        root / "weights-pickle" / "pytorch_model.bin"
    )
    _vocabulary(_copy(root, "vocabulary-larger"), [*WORDS[:5], *("zebra", "film"), *WORDS[5:]])
    _vocabulary(_copy(root, "vocabulary-no-unk"), [w for w in WORDS if w != "[UNK]"])
    _vocabulary(_copy(root, "vocabulary-empty"), [])
    (_copy(root, "tokenizer-torn") / "tokenizer.json").write_text('{"version": ')
    (_copy(root, "tokenizer-list") / "tokenizer.json").write_text("[]")
    (_copy(root, "sentences-torn") / "sentence_bert_config.json").write_text("{")
    text = '{"max_seq_length": "long"}'
    (_copy(root, "sentences-text") / "sentence_bert_config.json").write_text(text)


def _runs(root):
    """Directories that hold, or held, a run."""
    (root / "folder").mkdir()
    (root / "folder" / "train.csv").write_text("text,label\n" + ROWS)
    settings = json.dumps(
        {"model": "model", "train": "train.csv", "output": "run",
         "training": {"epochs": 1, "batch_size": 8, "max_length": 16}}
    )  # fmt: skip
    for name, run in (
        ("run", '{"status": "finished"}'), ("run-torn", '{"status": "fin'), ("run-list", "[]"),
        ("run-odd", '{"config": [], "data": 3, "status": {}}'), ("run-mine", "{}"),
        ("run-held", "{}"), ("run-far", "{}"), ("run-lock", "{}"), ("run-settings", "{}"),
    ):  # fmt: skip
        _copy(root, name)
        (root / name / "run.json").write_text(run)
        (root / name / "finetune.json").write_text(settings.replace('"run"', f'"{name}"'))
    (root / "run-mine" / "thesis.txt").write_text("years of work")
    (root / "run-settings" / "finetune.json").write_text('{"model": 5}')
    (root / "run-lock" / "run.lock").write_text("")
    far = dict(pid=7, host="far-away", boot="", started="", since="2020-01-01 00:00:00")
    (root / "run-far" / "run.lock").write_text(json.dumps(far))
    (root / "held.json").write_text("{}")
    plan = (
        'control = "uniform"\nstrategies = ["uniform"]\nsizes = { full = 1 }\n'
        '[models.m]\nmodel = "model"\n[tasks.t]\ntrain = "{here}/train.csv"\n'
        'eval = "dev.csv"\ntest = "test.csv"\n'
    )
    (root / "study.toml").write_text(plan)
    (root / "study-strange.toml").write_text(plan.replace('["uniform"]', '["uniform", "best"]'))
    (root / "study-colour.toml").write_text(plan + 'colour = "red"\n')
    (root / "study").mkdir()
    (root / "study" / "study.json").write_text('{"kind": "study"')
    (root / "study-odd").mkdir()
    (root / "study-odd" / "study.json").write_text('{"kind": "study", "version": 1}')
    (root / "locked").mkdir()
