"""Token ids equal those of `transformers`, whatever its files ask for, cached or not."""

import contextlib
import json
import shutil

import numpy as np
import pytest
import transformers
from transformers import AutoTokenizer, BertTokenizer

from jaxbert.data import features
from jaxbert.data.sources import Examples
from jaxbert.data.tokenization import (
    _own_class,
    load_tokenizer,
    save_tokenizer,
    tokenize,
)

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a film is good bad un ##able ##ly caf ##e 中 , . ! ' \""
TEXTS = (
    "The film is good.",
    "",
    "bad " * 40,
    "café ünable un\u200bably \x00\x07 中文 🎬 \u202eevil",
    "[SEP] the [MASK] film [CLS]",
    "x" * 500,
    "a\tb\r\nthe  \u2028 film \ufeff",
)
PAIRS = ("a film", "bad " * 30, "", "good, bad!", "[SEP]", "the", "is it 'good'?" * 9)


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    """A saved tokenizer whose files ask for truncation and padding, as the demo model's do."""
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "vocab.txt").write_text("\n".join(WORDS.split()), encoding="utf-8")
    tokenizer = BertTokenizer.from_pretrained(directory)
    tokenizer.backend_tokenizer.enable_truncation(6)
    tokenizer.backend_tokenizer.enable_padding(length=6)
    tokenizer.save_pretrained(directory)
    stored = json.loads((directory / "tokenizer.json").read_text())
    assert stored["truncation"]
    assert stored["padding"]
    return directory


@pytest.fixture
def tokenizer(model_directory):
    return load_tokenizer(model_directory)


def _split(flat, offsets):
    return [part.tolist() for part in np.split(flat, offsets[1:-1])]


@pytest.mark.parametrize("max_length", [4, 5, 8, 17, 128])
@pytest.mark.parametrize("pairs", [None, PAIRS])
def test_same_ids_as_transformers(model_directory, tokenizer, pairs, max_length):
    tokenized = tokenize(Examples(TEXTS, pairs), tokenizer, max_length)
    reference = AutoTokenizer.from_pretrained(model_directory)
    inputs = [list(TEXTS)] if pairs is None else [list(TEXTS), list(pairs)]
    want = reference(*inputs, truncation="longest_first", max_length=max_length)
    assert _split(tokenized.input_ids, tokenized.offsets) == want.input_ids
    assert _split(tokenized.token_type_ids, tokenized.offsets) == want.token_type_ids
    whole = reference(*inputs).input_ids
    assert tokenized.truncated == sum(len(ids) > max_length for ids in whole)
    assert tokenized.lengths.tolist() == [len(ids) for ids in want.input_ids]
    assert tokenized.input_ids.dtype == tokenized.token_type_ids.dtype == np.int32


def test_stored_padding_and_truncation_do_not_leak(model_directory, tokenizer):
    assert tokenize(Examples(("a", "a film is good")), tokenizer, 64).lengths.tolist() == [3, 6]
    assert tokenize(Examples(("bad " * 20,)), tokenizer, 64).lengths.tolist() == [22]
    raw = AutoTokenizer.from_pretrained(model_directory)  # not through load_tokenizer
    assert tokenize(Examples(("a", "bad " * 20)), raw, 64).lengths.tolist() == [3, 22]
    assert raw.backend_tokenizer.truncation["max_length"] == 6  # and left as it was


def test_chunks_join(tokenizer, monkeypatch):
    whole = tokenize(Examples(TEXTS), tokenizer, 16)
    monkeypatch.setattr(features, "_CHUNK", 2)
    chunked = tokenize(Examples(TEXTS), tokenizer, 16)
    np.testing.assert_array_equal(whole.input_ids, chunked.input_ids)
    np.testing.assert_array_equal(whole.offsets, chunked.offsets)
    assert whole.truncated == chunked.truncated == 1


def test_labels_come_along(tokenizer):
    labels = np.array([1, 0], np.int32)
    assert tokenize(Examples(("a", "b"), labels=labels), tokenizer, 8).labels is labels


def test_too_short_a_limit(tokenizer):
    with pytest.raises(ValueError, match=r"max_length=2 leaves no room .* 2 special tokens: want"):
        tokenize(Examples(("a",)), tokenizer, 2)
    with pytest.raises(ValueError, match=r"beside 3 special tokens: want at least 4"):
        tokenize(Examples(("a",), ("b",)), tokenizer, 3)


def test_text_without_any_token(tokenizer):
    tokenizer.backend_tokenizer.post_processor = None  # no special tokens
    with pytest.raises(ValueError, match=r"no token of the text in data row 2 \(and 0 more\)"):
        tokenize(Examples(("a", "")), tokenizer, 8)


# Cache


@pytest.fixture
def count_encodings(monkeypatch):
    calls = []
    encode = features._encode
    monkeypatch.setattr(features, "_encode", lambda *a: calls.append(1) or encode(*a))
    return calls


def test_cache(tokenizer, tmp_path, count_encodings):
    examples = Examples(TEXTS, PAIRS, labels=np.arange(len(TEXTS), dtype=np.int32))
    first = tokenize(examples, tokenizer, 8, cache_dir=tmp_path / "cache")
    second = tokenize(examples, tokenizer, 8, cache_dir=tmp_path / "cache")
    assert len(count_encodings) == 1
    for name in ("input_ids", "token_type_ids", "offsets", "labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.truncated == second.truncated > 0
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".npz"]  # nothing half written


def test_cache_tells_contents_apart(tokenizer, tmp_path, count_encodings):
    for examples, max_length in (
        (Examples(TEXTS), 8),
        (Examples(TEXTS), 9),
        (Examples(TEXTS[1:]), 8),
        (Examples(TEXTS, PAIRS), 8),
    ):
        tokenize(examples, tokenizer, max_length, cache_dir=tmp_path)
    tokenizer.add_tokens(["film is"])
    changed = tokenize(Examples(TEXTS), tokenizer, 8, cache_dir=tmp_path)
    assert len(count_encodings) == len(list(tmp_path.iterdir())) == 5
    np.testing.assert_array_equal(
        changed.input_ids, tokenize(Examples(TEXTS), tokenizer, 8).input_ids
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"no zip" * 100,
        lambda data: data.replace(b"\x02\0\0\0", b"\x03\0\0\0", 1),
    ],
)
def test_damaged_cache_is_rebuilt(tokenizer, tmp_path, count_encodings, damage):
    first = tokenize(Examples(TEXTS), tokenizer, 8, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    again = tokenize(Examples(TEXTS), tokenizer, 8, cache_dir=tmp_path)
    np.testing.assert_array_equal(first.input_ids, again.input_ids)
    assert len(count_encodings) == 2
    tokenize(Examples(TEXTS), tokenizer, 8, cache_dir=tmp_path)
    assert len(count_encodings) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"input_ids": np.array([{}] * 8, object)},  # a pickle
        {"input_ids": np.arange(9)},
        {"token_type_ids": np.zeros(7, int)},
        {"offsets": np.array([0, 4])},
    ],
)
def test_foreign_cache_is_rebuilt(tokenizer, tmp_path, count_encodings, change):
    examples = Examples(("a", "b"))
    tokenize(examples, tokenizer, 8, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    fine = {"input_ids": np.arange(8), "token_type_ids": np.zeros(8, int)}
    fine |= {"offsets": np.array([0, 4, 8]), "truncated": 0}
    np.savez(path, **fine)
    assert tokenize(examples, tokenizer, 8, cache_dir=tmp_path).input_ids[7] == 7
    np.savez(path, **(fine | change))
    rebuilt = tokenize(examples, tokenizer, 8, cache_dir=tmp_path)
    assert rebuilt.input_ids.tolist() == [2, 6, 3, 2, 1, 3]
    assert len(count_encodings) == 2


# Files


def test_vocabulary_alone(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS.split()), encoding="utf-8")
    ids = tokenize(Examples(("The Film",)), load_tokenizer(tmp_path), 8).input_ids
    assert ids.tolist() == [2, 5, 7, 3]
    # With capitals in it, the vocabulary is of a model that tells case apart.
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS.split(), "The"]), encoding="utf-8")
    ids = tokenize(Examples(("The Film",)), load_tokenizer(tmp_path), 8).input_ids
    assert ids.tolist() == [2, len(WORDS.split()), 1, 3]


def test_save_and_load(model_directory, tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    want = tokenize(Examples(TEXTS, PAIRS), tokenizer, 16).input_ids
    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        np.testing.assert_array_equal(tokenize(Examples(TEXTS, PAIRS), loaded, 16).input_ids, want)
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    assert stored["truncation"] is stored["padding"] is None


@pytest.mark.parametrize("suffix", ["", "Fast"])
@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("albert", "AlbertTokenizer"),
        ("bert", "BertTokenizer"),
        ("deberta-v2", "DebertaV2Tokenizer"),
        ("distilbert", "DistilBertTokenizer"),
        ("mpnet", "MPNetTokenizer"),
        ("roberta", "RobertaTokenizer"),
    ],
)
def test_a_class_of_the_model_s_family_is_what_the_library_takes(
    model_type, name, suffix, tmp_path
):
    getattr(transformers, name)().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = name + suffix
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert _own_class(tmp_path).__name__ == name
    loaded, want = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is type(want)
    assert loaded.backend_tokenizer.to_str() == want.backend_tokenizer.to_str()


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("bert", {"tokenizer_class": "RobertaTokenizer"}),
        ("bert", {"tokenizer_class": "BertTokenizer", "auto_map": {}}),
        ("bert", {"tokenizer_class": "BertConfig"}),
        ("bert", {"tokenizer_class": "NoSuchTokenizer"}),
        ("bert", {"tokenizer_class": ["BertTokenizer"]}),
        ("bert", {}),
        (["bert"], {"tokenizer_class": "BertTokenizer"}),
    ],
)
def test_the_library_decides_where_files_name_no_such_class(model_type, settings, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert _own_class(tmp_path) is None


def test_no_tokenizer_there(model_directory, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer files \(one of tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such directory to load a tokenizer"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"no/such: the tokenizer cannot be loaded: ") as caught:
        load_tokenizer("no/such")  # the tests are offline
    assert "\n" not in str(caught.value)
    shutil.copytree(model_directory, tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"broken: the tokenizer cannot be loaded: ") as caught:
        load_tokenizer(tmp_path / "broken")
    assert "\n" not in str(caught.value)


def test_runs_no_code_of_the_model(model_directory, tmp_path):
    shutil.copytree(model_directory, tmp_path / "remote")
    config = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (tmp_path / "remote" / "tokenizer_config.json").write_text(json.dumps(config))
    marker = tmp_path / "ran"
    (tmp_path / "remote" / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass")
    with contextlib.suppress(ValueError):
        load_tokenizer(tmp_path / "remote")
    assert not marker.exists()
