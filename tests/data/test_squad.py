"""SQuAD's JSON as columns, and what is wrong with files that are nearly that."""

import json

import pytest

from jaxbert.data.tables import read_table
from jaxbert.errors import InputError

FIRST = {
    "version": "1.1",
    "data": [
        {
            "title": "Films",
            "paragraphs": [
                {
                    "context": "a good film",
                    "qas": [
                        {"id": "1", "question": "what?",
                         "answers": [{"text": "film", "answer_start": 7}]},
                        {"id": "2", "question": "how?",
                         "answers": [{"text": "good", "answer_start": 2}]},
                    ],
                },
                {"context": "empty of questions", "qas": []},
            ],
        },
        {"paragraphs": [{"context": "dull", "qas": [{"id": "3", "question": "how?"}]}]},
    ],
}  # fmt: skip


def read(tmp_path, value):
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(value))
    return read_table(path).columns


def test_a_question_is_a_row(tmp_path):
    assert read(tmp_path, FIRST) == {
        "id": ["1", "2", "3"],
        "title": ["Films", "Films", None],
        "context": ["a good film", "a good film", "dull"],
        "question": ["what?", "how?", "how?"],
        "answers": [
            [{"text": "film", "answer_start": 7}],
            [{"text": "good", "answer_start": 2}],
            None,
        ],
    }


def test_the_second_version_says_which_have_no_answer(tmp_path):
    asked = [
        {"id": "1", "question": "what?", "is_impossible": True, "answers": [],
         "plausible_answers": [{"text": "film", "answer_start": 7}]},
    ]  # fmt: skip
    value = {"version": "v2.0", "data": [{"paragraphs": [{"context": "a film", "qas": asked}]}]}
    found = read(tmp_path, value)
    assert list(found) == ["id", "context", "question", "answers", "is_impossible"]
    assert (found["answers"], found["is_impossible"]) == ([[]], [True])


def test_questions_to_be_answered_have_no_column_of_answers(tmp_path):
    value = {"data": [{"paragraphs": [{"context": "dull", "qas": [{"question": "how?"}]}]}]}
    assert list(read(tmp_path, value)) == ["context", "question"]


def test_columns_called_data_are_columns(tmp_path):
    assert read(tmp_path, {"data": ["a", "b"]}) == {"data": ["a", "b"]}
    assert read(tmp_path, {"data": [{"text": "a"}]}) == {"data": [{"text": "a"}]}


def paragraphs(*given):
    return {"data": [{"paragraphs": list(given)}]}


WRONG = {
    "article 2: got str, want an object": {"data": [FIRST["data"][0], "b"]},
    "article 2 has no 'paragraphs'": {"data": [FIRST["data"][0], {}]},
    "article 1: 'paragraphs' is dict, want a list": {"data": [{"paragraphs": {}}]},
    "article 1, paragraph 1 has no 'context'": paragraphs({"qas": []}),
    "article 1, paragraph 1: 'context' is int, want a text": paragraphs({"context": 3}),
    "article 1, paragraph 2 has no 'qas'": paragraphs(
        {"context": "a", "qas": []}, {"context": "b"}
    ),
    "article 1, paragraph 1, question 1 has no 'question'": paragraphs(
        {"context": "a", "qas": [{"id": "1"}]}
    ),
    "squad.json holds no questions": paragraphs({"context": "a", "qas": []}),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_part_that_is_missing_is_named(tmp_path, message):
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, WRONG[message])
    assert "squad.json" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
