"""The data whose memory `python -m benchmarks.rows` measures: as many rows as it says."""

import tracemalloc

import pytest

from benchmarks.rows import FORMATS, SPECIAL, TOKEN_BYTES, WORDS, shown, write_rows
from jaxbert import load_examples
from jaxbert.data import load_tokenizer, tokenize


@pytest.mark.parametrize("kind", FORMATS)
def test_the_data_are_what_is_counted(tmp_path, kind):
    data = write_rows(tmp_path / f"rows.{kind}", 50)
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    found = load_examples(data.path, label_column="label")
    assert len(found) == 50
    assert sum(map(len, found.texts)) == data.text_bytes
    assert found.label_names == ("certainly", "maybe", "no")
    tokens = tokenize(found, load_tokenizer(tmp_path), 64)
    assert len(tokens.input_ids) == data.tokens
    ids = (tokens.input_ids, tokens.token_type_ids)
    assert sum(array.nbytes for array in ids) == TOKEN_BYTES * data.tokens


@pytest.mark.parametrize("kind", FORMATS)
def test_reading_takes_little_beyond_the_texts(tmp_path, kind):
    rows = 20_000
    data = write_rows(tmp_path / f"rows.{kind}", rows)
    load_examples(data.path, label_column="label")  # what is imported late is no part of it
    tracemalloc.start()
    found = load_examples(data.path, label_column="label")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == rows
    assert peak - data.text_bytes < 250 * rows  # 50 of them what Python needs for a text


def test_the_table_has_a_line_for_each():
    row = {
        "format": "csv", "rows": 1_000_000, "file_bytes": 2**26, "peak_bytes": 2**30,
        "bytes_a_row": 300, "text_bytes_a_row": 60, "token_bytes_a_row": 100,
        "beyond_bytes_a_row": 140, "seconds": 20.4,
    }  # fmt: skip
    last = shown([row]).splitlines()[-1]
    assert last == "| 1,000,000 csv | 64 | 1,024 | 300 | 60 | 100 | 140 | 20 |"
