"""Tables: every format gives the same columns, every fault one line that says what to do."""

import csv
import io
import json

import datasets
import pytest

from jaxbert.data import load_texts, read_columns
from jaxbert.data.tables import read_table
from jaxbert.tasks import load_examples

ROWS = [
    {"text": 'He said "no".', "label": "neg"},
    {"text": "comma, tab-free, naïve \u2028 separator", "label": "pos"},
    {"text": "", "label": "neg"},
]
COLUMNS = {"text": [r["text"] for r in ROWS], "label": [r["label"] for r in ROWS]}


def _plain(columns):
    return {
        name: c.to_pylist() if hasattr(c, "to_pylist") else list(c) for name, c in columns.items()
    }


def _write(path, content, encoding="utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def _csv_text(delimiter):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows([("text", "label"), *((r["text"], r["label"]) for r in ROWS)])
    return out.getvalue()


def _as_parquet(path):
    datasets.Dataset.from_list(ROWS).to_parquet(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", _csv_text(",")),
        ("a.CSV", "\ufeff" + _csv_text(",")),
        ("a.tsv", _csv_text("\t")),
        ("b.tsv", "text\tlabel\n" + "\n".join(f"{r['text']}\t{r['label']}" for r in ROWS)),
        ("a.jsonl", "\n".join(json.dumps(r) for r in ROWS) + "\n\n"),
        ("b.jsonl", "\r\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS)),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("b.json", json.dumps(COLUMNS)),
        ("c.json", "\n".join(json.dumps(r) for r in ROWS)),
        ("a.parquet", None),
    ],
)
def test_every_format_gives_the_same_columns(tmp_path, name, content):
    path = tmp_path / name
    if content is None:
        _as_parquet(path)
    else:
        _write(path, content)
    columns, source = read_table(str(path))
    assert _plain(columns) == COLUMNS
    assert source == str(path)


def test_memory():
    assert _plain(read_table(ROWS)[0]) == COLUMNS
    assert _plain(read_table(COLUMNS)[0]) == COLUMNS
    assert _plain(read_table(iter(ROWS))[0]) == COLUMNS
    assert _plain(read_table(datasets.Dataset.from_list(ROWS))[0]) == COLUMNS
    assert read_table([{"a": 1}, {"b": 2}])[0] == {"a": [1, None], "b": [None, 2]}


def test_class_numbers_of_a_dataset_become_their_names():
    features = datasets.Features({"label": datasets.ClassLabel(names=["neg", "pos"])})
    data = datasets.Dataset.from_dict({"label": [1, 0, -1, None]}, features=features)
    assert read_table(data)[0] == {"label": ["pos", "neg", None, None]}


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        # GLUE and the like never quote: a lone quote must not swallow the next line.
        ('text\tlabel\n"Oh" no\t1\n5" disk\t0\n"open\t1\n', ['"Oh" no', '5" disk', '"open']),
        ('text\tlabel\n"good"\t1\n', ['"good"']),
        ('text\tlabel\n"half \u2028\x0b\x85 more\t1\r\n', ['"half \u2028\x0b\x85 more']),
        # CSV writers double inner quotes, quote everything, or wrap tabs and line ends.
        ('text\tlabel\n"say ""hi"""\t1\n', ['say "hi"']),
        ('"text"\t"label"\n"good"\t"1"\n', ["good"]),
        ('text\tlabel\n"two\nlines, a\ttab"\t1\n', ["two\nlines, a\ttab"]),
        ('text\tlabel\n""\t1\n', [""]),
    ],
)  # fmt: skip
def test_quotes_in_tsv(tmp_path, content, texts):
    columns, _ = read_table(_write(tmp_path / "a.tsv", content))
    assert list(columns["text"]) == texts
    assert set(columns["label"]) <= {"0", "1"}


def test_a_very_long_field(tmp_path):
    columns, _ = read_table(_write(tmp_path / "a.csv", "text\n" + "x" * 300_000 + "\n"))
    assert len(columns["text"][0]) == 300_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv is empty: there must be at least one example"),
        ("a.csv", "text,label\n", r"a\.csv holds no examples: want a header line and at least one"),
        ("a.tsv", "\n\n", r"a\.tsv holds no examples"),
        ("a.jsonl", "\n \n", r"a\.jsonl: no examples, there must be at least one"),
        ("a.json", "[]", r"a\.json: no examples, there must be at least one"),
        ("a.csv", "text,label\na,0\nb\n", r"a\.csv, line 3: 1 fields where the header has 2"),
        ("a.tsv", "text\tlabel\na\t0\nb\t1\t2\n", r"a\.tsv, line 3: 3 fields where .* check"),
        ("a.csv", 'text\n"open\n', r"a\.csv, line 2: unexpected end of data; .* doubled"),
        ("a.csv", "text,text\na,b\n", r"a\.csv: the header has 'text' twice: rename one"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2 is not JSON: .* one object"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', r"a\.jsonl, line 2: got list, want an object"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl, line 1 is not JSON"),
        ("a.json", '[{"text": "a"},]', r"a\.json is not JSON: .*; mend it there"),
        ("a.json", '["b"]', r"a\.json, item 1: got str, want an object"),
        ("a.parquet", "PAR1 no", r"a\.parquet is no readable parquet file: .*; write it again"),
        ("a.xlsx", "x", r"a\.xlsx: unknown extension '\.xlsx'; want one of \.csv, \.tsv, \.jsonl"),
        ("a.csv", b"text\nok\ncaf\xe9\n", r"not UTF-8: byte 0xe9 at offset 11 \(line 3\); .*1252"),
        ("a.csv", b"\xef\xbb\xbftext\n\xe9\n", r"byte 0xe9 at offset 8 \(line 2\)"),
        ("a.jsonl", "text".encode("utf-16"), r"byte 0xff at offset 0 .*iconv -f UTF-16"),
    ],
)  # fmt: skip
def test_faulty_files(tmp_path, name, content, message):
    path = _write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_no_such_file_and_directories(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"reviews\.csv: no such file; want .* hub id"):
        read_table("reviews.csv")
    with pytest.raises(FileNotFoundError, match=r"reviews: no such file"):
        read_table("./reviews")
    with pytest.raises(ValueError, match=r"is a directory; give one of the files in it"):
        read_table(tmp_path)
    with pytest.raises(ValueError, match=r"split='test' is for hub data sets; .*a\.csv is a file"):
        read_table(_write(tmp_path / "a.csv", "text\na\n"), split="test")
    with pytest.raises(ValueError, match=r"source: got int, want a path, a hub id"):
        read_table(3)
    with pytest.raises(ValueError, match=r"records, item 1: got str, want an object"):
        read_table(["a text"])
    with pytest.raises(ValueError, match=r"records: no examples"):
        read_table([])


def test_hub(monkeypatch):
    asked = []
    train = datasets.Dataset.from_list(ROWS)

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        splits = datasets.DatasetDict({"train": train, "test": train})
        return splits[split] if split else splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    columns, source = read_table("owner/name:config", split="train")
    assert _plain(columns) == COLUMNS
    assert source == "owner/name:config[train]"
    with pytest.raises(ValueError, match=r"owner/name has the splits train, test: name one with"):
        read_table("owner/name")
    assert asked == [("owner/name", "config", "train"), ("owner/name", None, None)]


def test_hub_with_one_split_needs_no_name(monkeypatch):
    splits = datasets.DatasetDict({"all": datasets.Dataset.from_list(ROWS)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: splits)
    columns, source = read_table("owner/name")
    assert _plain(columns) == COLUMNS
    assert source == "owner/name[all]"


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(ConnectionError("Couldn't reach it\nat all"), ConnectionError), (KeyError("x"), ValueError)],
)
def test_hub_errors_are_one_line(monkeypatch, raised, kind):
    def load_dataset(*args, **kwargs):
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = "trian: no such file, and as a hub data set it cannot be loaded: .*; check the name"
    with pytest.raises(kind, match=message) as caught:
        read_table("trian")
    assert "\n" not in str(caught.value)


def test_a_line_of_a_text_file_is_a_text(tmp_path):
    path = tmp_path / "films.txt"
    path.write_bytes("a good film\r\ndull\u2028and long\n\nfine".encode())
    assert load_texts(path).texts == ("a good film", "dull\u2028and long", "", "fine")
    with pytest.raises(ValueError, match=r"films\.txt has no column 'label'"):
        load_examples(path, label_column="label")


def test_a_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["good", "bad"], "label": [1, 0], 3: [0, 0]}, index=[7, 7])
    examples = load_examples(frame, label_column="label")
    assert (examples.texts, examples.labels.tolist()) == (("good", "bad"), [1, 0])
    assert load_examples(frame[["text"]]).texts == ("good", "bad")
    frame.columns = ["text", "text", "x"]
    with pytest.raises(ValueError, match="'text' twice"):
        load_examples(frame)
    frame = pandas.DataFrame({"text": ["good", None]})
    with pytest.raises(ValueError, match=r"no text in data row 2|float where text is wanted"):
        load_examples(frame)


def test_the_splits_of_a_dataset_dict():
    parts = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    whole = datasets.DatasetDict(parts)
    examples = load_texts(whole, split="test")
    assert (examples.texts, examples.source) == (("test",), "data set[test]")
    assert load_texts(datasets.DatasetDict(train=parts["train"])).texts == ("train",)
    with pytest.raises(ValueError, match="has the splits train, test: name one with split"):
        load_texts(whole)
    with pytest.raises(ValueError, match="no split='dev', it has train, test"):
        load_texts(whole, split="dev")
    for other in (parts["train"], {"text": ["a"]}, [{"text": "a"}]):
        with pytest.raises(ValueError, match="split='test': the source has no splits"):
            load_texts(other, split="test")


# Files whose first line names nothing


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("films.tsv", "good film \t1\ndull\t0\n"),
        ("films.csv", '"good film ",1\ndull,0\n'),
        ("one.tsv", "good film \t1\n"),
        ("same.tsv", "1\t1\n0\t0\n"),
    ],
)
def test_without_a_header_columns_are_numbers(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    columns = read_table(tmp_path / name, header=False).columns
    first = "1" if name == "same.tsv" else "good film "
    assert list(columns) == ["1", "2"]
    assert (columns["1"][0], columns["2"][0]) == (first, "1")
    assert len(columns["1"]) == len(content.splitlines())


def test_what_looks_like_no_header_is_told_of_the_way(tmp_path):
    (tmp_path / "films.tsv").write_text("good film\t1\ndull\t0\n")
    with pytest.raises(ValueError, match=r"its columns are 'good film', '1'; if its first .* 1, 2"):
        load_texts(tmp_path / "films.tsv")
    # Where one column is found, it is one.
    with pytest.raises(ValueError, match=r"its columns are 'good film', '1'$"):
        read_columns(tmp_path / "films.tsv", {"text_column": "1", "label_column": "x"})
    (tmp_path / "same.tsv").write_text("1\t1\n0\t0\n")
    with pytest.raises(ValueError, match="'1' twice: rename one; if its first line is no header"):
        load_texts(tmp_path / "same.tsv")
    for source in (tmp_path / "same.jsonl", {"text": ["good"]}, "owner/films"):
        (tmp_path / "same.jsonl").write_text('{"text": "good"}\n')
        with pytest.raises(ValueError, match=r"header=False is for .csv and .tsv files"):
            read_table(source, header=False)
    (tmp_path / "uneven.tsv").write_text("1\t1\n0\n")
    with pytest.raises(ValueError, match="line 2: 1 fields where the first line has 2"):
        read_table(tmp_path / "uneven.tsv", header=False)
    (tmp_path / "blank.tsv").write_text("\n")
    with pytest.raises(ValueError, match="holds no examples: want at least one line"):
        read_table(tmp_path / "blank.tsv", header=False)
