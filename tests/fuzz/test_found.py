"""What fuzzing has found, each in its smallest form: once a traceback, or worse."""

import json
import logging

import pyarrow
import pyarrow.parquet
import pytest

from jaxbert.errors import InputError
from jaxbert.models import ModernBertConfig
from jaxbert.models.auto import AutoConfig
from tests.fuzz.targets import TARGETS, metrics, parquet, replacement

DIGITS = "9" * 5000  # Python makes no number of it


def config(model_type, **changes):
    return json.dumps({"model_type": model_type, **changes})


MANY_LAYERS = dict(num_hidden_layers=10**12, global_attn_every_n_layers=2)
# target, file: what is in it, what the message must name
FOUND = {
    "a number of many digits in jsonl": (
        "jsonl", "data.jsonl", f'{{"text": "good", "label": {DIGITS}}}', "data.jsonl line 1"),
    "in json": ("json", "data.json", f'[{{"text": "good", "label": {DIGITS}}}]', "data.json JSON"),
    "in TOML": ("settings in TOML", "run.toml", f"model = {DIGITS}", "run.toml TOML"),
    "in strategies": ("strategies", "mine.toml", f"[mine]\nx = {DIGITS}", "mine.toml TOML"),
    "deep strategies": ("strategies", "mine.toml", "x = " + "[" * 100_000, "mine.toml TOML"),
    "a number for a file": (
        "settings in JSON, finetune.json", "finetune.json", '{"strategy_file": 3.5}',
        "finetune.json strategy_file=3.5 text"),
    "labels are no object": ("config.json", "config.json", config("bert", id2label=True),
                             "config.json id2label True"),
    "layers in a list": ("config.json", "config.json",
                         config("modernbert", layer_types=[["full_attention"]] * 22),
                         "layer_types"),
    "layers in a number": ("config.json", "config.json", config("modernbert", layer_types=5),
                           "layer_types=5 list"),
    "more layers than memory": ("config.json", "config.json", config("modernbert", **MANY_LAYERS),
                                "layer_types 1000000000000"),
    "every 0th layer": ("config.json", "config.json",
                        config("modernbert", global_attn_every_n_layers=0),
                        "global_attn_every_n_layers=0"),
    "rotation in a number": ("config.json", "config.json", config("modernbert", rope_parameters=7),
                             "rope_parameters=7 object"),
    "rotation of a kind in one": (
        "config.json", "config.json",
        config("modernbert", rope_parameters={"full_attention": 7}), "'full_attention' 7 object"),
    "width in an object": ("config.json", "config.json", config("deberta-v2", hidden_size={}),
                           "hidden_size={} whole"),
    "no heads": ("config.json", "config.json", config("deberta-v2", num_attention_heads=0),
                 "num_attention_heads=0"),
    "terms in a number": ("config.json", "config.json", config("deberta-v2", pos_att_type=5),
                          "pos_att_type=5"),
    "an embedding in a list": ("config.json", "config.json",
                               config("electra", embedding_size=[8]), "embedding_size [8]"),
    "groups in an object": ("config.json", "config.json", config("albert", num_hidden_groups={}),
                            "num_hidden_groups {}"),
    "a rate beyond floats": ("config.json", "config.json",
                             config("bert", initializer_range=10**400), "initializer_range"),
    "a far token": ("tokenizer.json", "tokenizer.json",
                    json.dumps({"model": {"vocab": {"a": 2**31}}}), "tokenizer.json 2147483648"),
    "an added far token": (
        "tokenizer.json", "tokenizer.json",
        json.dumps({"model": {}, "added_tokens": [{"id": 2**31}]}), "tokenizer.json 2147483648"),
    "unknown terms": ("config.json", "config.json",
                      config("deberta-v2", relative_attention=True, norm_rel_ebd="none",
                             pos_att_type=["x"]), "pos_att_type 'x'"),
    "distances in words": ("config.json", "config.json",
                           config("deberta-v2", relative_attention=True, norm_rel_ebd="none",
                                  position_buckets="many"), "position_buckets 'many'"),
}  # fmt: skip


@pytest.mark.parametrize("found", FOUND.values(), ids=FOUND)
def test_found(tmp_path, found):
    target, name, content, words = found
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError) as error:
        TARGETS[target].read(path)
    missing = [word for word in words.split() if word not in str(error.value)]
    assert not missing, error.value


def test_a_label_of_many_digits_is_a_name(tmp_path):
    (tmp_path / "data.tsv").write_text(f"text\tlabel\ngood\t{DIGITS}\nbad\t7\n")
    TARGETS["tsv"].read(tmp_path / "data.tsv")


def test_text_in_parquet_that_is_no_utf_8(tmp_path):
    parquet(tmp_path)
    path = tmp_path / "data.parquet"
    rows = {"text": ["good", "bad"], "label": ["p", "n"]}
    pyarrow.parquet.write_table(pyarrow.table(rows), path, use_dictionary=False, compression="none")
    path.write_bytes(path.read_bytes().replace(b"good", b"g\xffod"))
    with pytest.raises(InputError, match=r"data.parquet is no readable parquet file.*UTF8"):
        TARGETS["parquet"].read(path)


@pytest.mark.parametrize(
    "names",
    ["[", "7", "[7]", "[[]]", "[]", '["metrics.jsonl"]', '["run.json", ".."]', '["run.json", ""]',
     '["run.json", "../run.json"]', '["run.json", "../.x/../../y.00000000.tmp"]',
     '["run.json", "thesis.txt"]', "[" * 100_000],
)  # fmt: skip
def test_a_replacement_by_damaged_names_moves_and_deletes_nothing(tmp_path, names):
    """`..` would have moved what is beside the run, and `[]` deleted both."""
    replacement(tmp_path)
    path = tmp_path / "unfinished" / "ready.json"
    path.write_text(names)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"ready.json is damaged, .* delete "):
        TARGETS["ready.json"].read(path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "line",
    ["{", "7", "{}", '{"event": "train", "step": 1e999}', '{"step": []}', "\xff", "[" * 9999,
     '{"event": "train", "step": "x"}', '{"event": [], "step": 1}',
     '{"event": "train", "step": ' + DIGITS + "}"],
)  # fmt: skip
def test_a_damaged_line_of_a_log_is_told_and_left_out(tmp_path, line, caplog):
    metrics(tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([whole[0], line.encode("latin-1"), b"\n", *whole[1:]]))
    with caplog.at_level(logging.WARNING):
        TARGETS["metrics.jsonl"].read(path)
    assert path.read_bytes() == b"".join(whole[:5])  # until step 3, evaluated until 2
    assert "metrics.jsonl: line 2 is damaged" in caplog.text


def test_integers_of_four_bits_in_parquet(tmp_path):
    """Of which the library says that it has not learned them, by an error of another kind."""

    def refuse(*_):
        raise pyarrow.ArrowNotImplementedError("Integers with less than 8 bits not implemented")

    parquet(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyarrow.parquet, "read_table", refuse)
        with pytest.raises(InputError, match=r"data.parquet is no readable .* Integers"):
            TARGETS["parquet"].read(tmp_path / "data.parquet")


def test_more_layers_are_no_problem_where_their_kinds_are_not_listed():
    assert ModernBertConfig(num_hidden_layers=10**12).layer_type(10**11) == "sliding_attention"


def test_what_is_read_is_what_it_was(tmp_path):
    """What was added against the above refuses nothing that is good."""
    one = dict(num_hidden_layers=1, num_attention_heads=1, hidden_size=1)
    for model_type in ("bert", "modernbert"):
        (tmp_path / "config.json").write_text(config(model_type, **one))
        assert AutoConfig.from_pretrained(tmp_path).num_hidden_layers == 1
