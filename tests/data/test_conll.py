"""CoNLL files: a token a line, its tag last, however the columns and sentences are parted."""

import datasets
import pytest

from jaxbert.data.tables import read_table
from jaxbert.errors import InputError


def read(tmp_path, content):
    path = tmp_path / "a.conll"
    path.write_bytes(content.encode())
    return read_table(path).columns


FILES = {
    "tabs": "He\tO\nlives\tO\nin\tO\nYork\tB-place\n\n#\tO\nx\tB-thing\n",
    "spaces": "He O\nlives  O\nin O \nYork   B-place\n\n# O\nx B-thing",
    "CoNLL-2003": "-DOCSTART- -X- O O\n\nHe PRP B-NP O\nlives V B-VP O\nin P B-P O\n"
    "York NNP B-NP B-place\n\n\n-DOCSTART- -X- O O\n\n# X X O\nx X X B-thing\n\n",
    "Windows": "\ufeff\r\nHe\tO\r\nlives\tO\r\nin\tO\r\nYork\tB-place\r\n\r\n#\tO\r\n"
    "x\tB-thing\r\n",
    "lines without a token": "He\tO\nlives\tO\nin\tO\nYork\tB-place\n\t\n#\tO\n"
    "x\tB-thing\n\tO\n \n",
}


@pytest.mark.parametrize("name", FILES)
def test_columns_and_sentences(tmp_path, name):
    assert read(tmp_path, FILES[name]) == {
        "tokens": [["He", "lives", "in", "York"], ["#", "x"]],
        "tags": [["O", "O", "O", "B-place"], ["O", "B-thing"]],
    }


def test_only_tabs_part_a_line_that_has_one(tmp_path):
    found = read(tmp_path, "New York\tB-place\nit\u00a0is\u2028so\tO\n\nIt is\t  O \n")
    assert found == {
        "tokens": [["New York", "it\u00a0is\u2028so"], ["It is"]],
        "tags": [["B-place", "O"], ["O"]],
    }


def test_tokens_alone(tmp_path):
    assert read(tmp_path, "He\nlives\n\nhere\n") == {"tokens": [["He", "lives"], ["here"]]}


FAULTS = {
    "a missing tag": ("He O\nlives\n", "a.conll, line 2: 1 columns where line 1 has 2"),
    "an empty tag": ("New York\tO\nNew York\t\n", "a.conll, line 2: 1 columns where line 1 has 2"),
    "one too many": ("\nHe O\nlives V O\n", "a.conll, line 3: 3 columns where line 2 has 2"),
    "a comment": ("# id 1 x\nHe O\n", "a.conll, line 2: 2 columns where line 1 has 4"),
    "nothing": ("\n\n", "a.conll holds no sentences"),
    "documents only": ("-DOCSTART- O\n\n", "a.conll holds no sentences"),
    "no file": ("", "a.conll is empty"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(tmp_path, name):
    content, message = FAULTS[name]
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_class_numbers_in_lists_become_their_names():
    names = datasets.ClassLabel(names=["O", "B-place"])
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(names),
        }
    )
    rows = {"tokens": [["in", "York"], ["x"], []], "ner_tags": [[0, 1], [-1], []]}
    found = read_table(datasets.Dataset.from_dict(rows, features=features)).columns
    assert found["ner_tags"] == [["O", "B-place"], [None], []]
    assert list(found["tokens"]) == rows["tokens"]
