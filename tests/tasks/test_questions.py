"""Questions as they are read, and their answers as tokens of windows."""

import copy
import dataclasses
import json

import datasets
import numpy as np
import pandas
import pytest
import tiny
from tokenizers import normalizers, pre_tokenizers

from jaxbert import load_examples
from jaxbert.data import load_tokenizer
from jaxbert.errors import InputError
from jaxbert.tasks.questions import QuestionExamples, encode_questions

CONTEXT = "the plot is dull and the end is weak"
ROWS = [
    {"id": "a", "question": "the end is", "context": CONTEXT,
     "answers": {"text": ["weak", "the end"], "answer_start": [32, 21]}},
    {"id": "b", "question": "the music is", "context": CONTEXT,
     "answers": {"text": [], "answer_start": []}},
    {"id": "c", "question": "the plot is", "context": CONTEXT,
     "answers": {"text": [" is dull "], "answer_start": [8]}},
]  # fmt: skip
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def records(answers):
    """As SQuAD's own files have them."""
    pairs = zip(answers["text"], answers["answer_start"], strict=True)
    return [{"text": text, "answer_start": start} for text, start in pairs]


def sources(path):
    (path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    datasets.Dataset.from_list(ROWS).to_parquet(path / "a.parquet")
    listed = [{**row, "answers": records(row["answers"])} for row in ROWS]
    datasets.Dataset.from_list(listed).to_parquet(path / "b.parquet")
    asked = [{k: row[k] for k in ("id", "question", "answers")} for row in listed]
    squad = {"version": "v2.0", "data": [{"paragraphs": [{"context": CONTEXT, "qas": asked}]}]}
    (path / "squad.json").write_text(json.dumps(squad))
    yield from (path / name for name in ("a.jsonl", "a.parquet", "b.parquet", "squad.json"))
    yield from (ROWS, COLUMNS, datasets.Dataset.from_list(ROWS))
    yield pandas.read_parquet(path / "a.parquet")


def test_every_source_gives_the_same_questions(tmp_path):
    found = [load_examples(source) for source in sources(tmp_path)]
    first = found[0]
    assert first.texts == tuple(row["question"] for row in ROWS)
    assert first.pairs == (CONTEXT,) * 3
    assert first.labels.tolist() == [[32, 36], [-1, -1], [9, 16]]  # without the space around it
    assert first.labels.dtype == np.int32
    assert first.answers == (("weak", "the end"), (), (" is dull ",))
    assert (first.ids, first.task) == (("a", "b", "c"), "question-answering")
    for other in found[1:]:
        assert (other.answers, other.ids) == (first.answers, first.ids)
        assert other.fingerprint == first.fingerprint


def test_columns_by_other_names():
    names = {"id": "key", "question": "asked", "context": "passage", "answers": "gold"}
    table = {names[name]: values for name, values in COLUMNS.items()}
    columns = {f"{name}_column": other for name, other in names.items()}
    assert load_examples(table, **columns).ids == ("a", "b", "c")
    columns.pop("id_column")
    assert load_examples(table, **columns).ids is None


def test_without_answers_they_can_be_asked_all_the_same():
    table = {name: COLUMNS[name] for name in ("question", "context")}
    found = load_examples(table, task="question-answering", labelled=False)
    assert (found.labels, found.answers, found.ids, found.task) == (None, None, None, None)
    whole = load_examples(COLUMNS)
    assert whole.unlabelled() == dataclasses.replace(found, ids=whole.ids, reason=whole.reason)


def test_some_of_them():
    whole = load_examples(COLUMNS)
    some = whole.take(np.array([2, 0]))
    assert isinstance(some, QuestionExamples)
    assert (some.ids, some.answers) == (("c", "a"), ((" is dull ",), ("weak", "the end")))
    assert some.labels.tolist() == [[9, 16], [32, 36]]
    assert whole.unlabelled().take(np.array([1])).answers is None


def test_what_is_learned_or_scored_makes_the_fingerprint():
    whole = load_examples(COLUMNS)
    others = [
        dataclasses.replace(whole, answers=(("weak",), (), (" is dull ",))),
        dataclasses.replace(whole, answers=(("weak", "the end"), (" is dull ",), ())),
        dataclasses.replace(whole, labels=whole.labels + 1),
        whole.unlabelled(),
        dataclasses.replace(whole, pairs=whole.texts),
    ]
    assert len({one.fingerprint for one in (whole, *others)}) == 1 + len(others)
    assert dataclasses.replace(whole, ids=None).fingerprint == whole.fingerprint


def answers(value):
    return {"question": ["q", "the end is"], "context": [CONTEXT] * 2,
            "answers": [COLUMNS["answers"][1], value]}  # fmt: skip


def one(text, start):
    return answers({"text": [text], "answer_start": [start]})


WRONG = {
    "row 2 .*: at answer_start=3 the context has ' plo' and not 'weak'; the nearest is 32": one(
        "weak", 3
    ),
    "mend it there": one("weak", 3),
    "at answer_start=27 the context has 'd' and not 'a'; the nearest is 34": one("a", 27),
    "at answer_start=0 the context has 'the pl' and not 'strong'; and no place has": one(
        "strong", 0
    ),
    "the context has nothing, for it has 36 characters and not 'weak'; the nearest is 32": one(
        "weak", 36
    ),
    "answer_start=-7 the context has nothing": one("is", -7),  # where it is, from the end
    "'answers' has no answers in data row 2 .*: want {.*empty lists": answers(None),
    "has str where answers are wanted in data row 2": answers("weak"),
    "has an answer without text in data row 2 .*: want {": one("", 0),
    "has an answer without text": one(None, 0),
    "an answer without text in data row 2": one("  ", 3),
    "an answer_start that is no whole number in": one("weak", True),
    # The first counts, and of long texts the beginning is shown.
    "has 'the plot' and not 'dull and'; the nearest is 12": answers(
        {"text": ["dull and", "weak"], "answer_start": [0, 32]}
    ),
    f"has '{'x' * 40}' and not '{'y' * 40}'; the nearest is 60": {
        "question": ["q"], "context": ["x" * 60 + "y" * 50],
        "answers": [{"text": ["y" * 50], "answer_start": [3]}]},
    "has an answer_start that is no whole number in data row 2": one("weak", "32"),
    "an answer_start that is no whole": one("weak", None),
    "has answers without lists of text and answer_start": answers({"text": ["weak"]}),
    "without lists of text": answers({"text": "weak", "answer_start": 32}),
    "has answers with more of text or of answer_start": answers(
        {"text": ["weak"], "answer_start": [32, 1]}
    ),
    "has answers that are no objects": answers(["weak"]),
    "no column 'answers' .answers_column": {"question": ["q"], "context": ["c"]},
    "no column 'question' .question_column; did you mean 'questions'": {
        "questions": ["q"], "context": ["c"], "answers": [[]]},
    "'context' has no text in data row 1": {
        "question": ["q"], "context": [" "], "answers": [[]]},
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_answer_is_named(message):
    with pytest.raises(InputError, match=message) as error:
        load_examples(WRONG[message], task="question-answering")
    assert len(str(error.value).splitlines()) == 1


def test_several_misplaced_answers_are_counted():
    table = {"question": ["q"] * 3, "context": [CONTEXT] * 3,
             "answers": [{"text": ["weak"], "answer_start": [n]} for n in (32, 1, 2)]}  # fmt: skip
    with pytest.raises(InputError, match=r"data row 2 \(counted from 1\), and 1 more,: at answer_"):
        load_examples(table)


def test_an_answer_may_be_at_the_very_beginning():
    assert load_examples(one("the plot", 0)).labels[1].tolist() == [0, 8]


def test_other_answers_may_stand_anywhere():
    """They count by their texts; a data set may have one start for all."""
    found = load_examples(answers({"text": ["weak", "strong"], "answer_start": [32, 32]}))
    assert found.answers[1] == ("weak", "strong")


# Windows


def spelled(tokenizer, found):
    """[(words, the words from the first to the last token of the label)] of each feature."""
    rows = []
    for i, (first, last) in enumerate(found.labels):
        words = tokenizer.convert_ids_to_tokens(found.input_ids[found.of_feature(i)])
        rows.append((" ".join(words), " ".join(words[first : last + 1])))
    return rows


def test_a_context_is_read_in_windows(tokenizer):
    found = encode_questions(load_examples(COLUMNS), tokenizer, 12, doc_stride=2)
    assert found.label_layout == "span"
    assert found.labels.dtype == np.int32
    assert found.example_of.tolist() == [0, 0, 1, 1, 2, 2]
    ends, music, plot = "the end is", "the music is", "the plot is"
    first, second = "the plot is dull and the", "and the end is weak"
    assert spelled(tokenizer, found) == [
        (f"[CLS] {ends} [SEP] {first} [SEP]", "[CLS]"),
        (f"[CLS] {ends} [SEP] {second} [SEP]", "weak"),
        (f"[CLS] {music} [SEP] {first} [SEP]", "[CLS]"),
        (f"[CLS] {music} [SEP] {second} [SEP]", "[CLS]"),
        (f"[CLS] {plot} [SEP] {first} [SEP]", "is dull"),
        (f"[CLS] {plot} [SEP] {second} [SEP]", "[CLS]"),
    ]
    assert (found.spans[: found.offsets[1]] >= 0)[:, 0].tolist() == [False] * 5 + [True] * 6 + [
        False
    ]
    assert found.token_type_ids[:12].tolist() == [0] * 5 + [1] * 7
    assert found.truncated == 0


def test_an_answer_that_no_window_holds_whole_is_in_none(tokenizer):
    table = answers({"text": ["is dull and the end"], "answer_start": [9]})
    found = encode_questions(load_examples(table), tokenizer, 10, doc_stride=1)  # 4 at a time
    assert not found.labels[found.example_of == 1].any()


def test_without_labels_there_are_none(tokenizer):
    found = encode_questions(load_examples(COLUMNS).unlabelled(), tokenizer, 12, doc_stride=2)
    assert (found.labels, len(found)) == (None, 6)


def test_a_tokenizer_that_pads_on_the_left_has_the_context_first(tokenizer):
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    found = encode_questions(load_examples(COLUMNS), left, 12, doc_stride=2)
    assert spelled(tokenizer, found)[1] == (
        "[CLS] and the end is weak [SEP] the end is [SEP]", "weak"
    )  # fmt: skip


def test_a_tokenizer_that_cuts_on_the_left_begins_at_the_end(tokenizer):
    left = copy.deepcopy(tokenizer)
    left.truncation_side = "left"
    found = encode_questions(load_examples(COLUMNS), left, 12, doc_stride=2)
    assert spelled(tokenizer, found)[:2] == [
        ("[CLS] the end is [SEP] dull and the end is weak [SEP]", "weak"),
        ("[CLS] the end is [SEP] the plot is dull and [SEP]", "[CLS]"),
    ]


@pytest.mark.parametrize(("length", "stride"), [(12, 4), (15, 5), (400, 128)])
def test_windows_share_a_third_of_a_short_length(tokenizer, length, stride):
    table = {name: values[:1] for name, values in COLUMNS.items()}
    long = load_examples(table | {"context": [" ".join([CONTEXT] * 60)]})
    own, given = (encode_questions(long, tokenizer, length, doc_stride=s) for s in (None, stride))
    assert own.input_ids.tolist() == given.input_ids.tolist()


def test_a_question_that_is_too_long_is_named(tokenizer):
    long = load_examples(answers(COLUMNS["answers"][1]) | {"question": ["a film", "a " * 12]})
    with pytest.raises(InputError, match=r"question in data row 2 .* leaves 1 of max_length=16"):
        encode_questions(long, tokenizer, 16)
    with pytest.raises(InputError, match=r"leaves 0 of max_length=12 tokens .* doc_stride=4: want"):
        encode_questions(long, tokenizer, 12)
    # Where the context is as short as the room, nothing need be divided.
    short = dataclasses.replace(long, pairs=("film", "film"))
    assert len(encode_questions(short, tokenizer, 16)) == 2
    with pytest.raises(InputError, match=r"leaves 0 of max_length=15"):
        encode_questions(short, tokenizer, 15)
    # A window that only repeats the one before would never end.
    five = dataclasses.replace(long, texts=("a " * 5, "a " * 5))
    with pytest.raises(InputError, match=r"row 1 .*and 1 more\) leaves 4 of max_length=12 .*=4: w"):
        encode_questions(five, tokenizer, 12)


def test_a_stride_that_is_too_long_is_named(tokenizer):
    with pytest.raises(InputError, match=r"doc_stride=9 must be below .*max_length=12.*, 9"):
        encode_questions(load_examples(COLUMNS), tokenizer, 12, doc_stride=9)


def test_texts_alone_are_no_questions(tokenizer):
    from jaxbert import Examples

    with pytest.raises(InputError, match="memory: questions without contexts: load_examples"):
        encode_questions(Examples(tiny.TEXTS), tokenizer, 12)


def pieces(tokenizer, **given):
    """The first question's label as characters of the context: what its tokens stand for."""
    found = encode_questions(load_examples({n: [v] for n, v in given.items()}), tokenizer, 16)
    first, last = found.labels[0]
    return given["context"][found.spans[first][0] : found.spans[last][1]]


@pytest.fixture(scope="module")
def pieced(tmp_path_factory):
    """Words in pieces, accents folded."""
    directory = tmp_path_factory.mktemp("pieces")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] 19 ##90 ##s in ete the film ( ) - a".split()  # noqa: SIM905
    (directory / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return load_tokenizer(directory)


def test_an_answer_takes_the_tokens_that_it_has_a_part_of(pieced):
    def answer(text, context):
        at = context.index(text)
        return pieces(
            pieced, question="the", context=context,
            answers={"text": [text], "answer_start": [at]},
        )  # fmt: skip

    assert answer("1990", "in the 1990s") == "1990"
    assert answer("990", "in the 1990s") == "1990"
    assert answer("90", "in the 1990s") == "90"
    assert answer("in", "in the film") == "in"  # at the very beginning
    assert answer("1990s", "in the 1990s") == "1990s"  # at the very end
    assert answer("Été", "in the (Été) film") == "Été"
    assert answer("日本", "in the 日本 film") == "日本"
    assert answer(" film", "in the film") == "film"
    assert answer("film", "the 🎬 film a") == "film"  # characters, not bytes


def test_a_character_of_several_tokens_is_answered_by_all(pieced):
    """Byte-level vocabularies divide characters."""
    bytes_ = copy.deepcopy(pieced)
    backend = bytes_.backend_tokenizer
    backend.normalizer = normalizers.Sequence([])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    from tokenizers import models

    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {"[UNK]": 0} | {letter: i for i, letter in enumerate(sorted(letters), 1)}
    backend.model = models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]")
    context = "a 日本"
    table = {"question": ["a"], "context": [context],
             "answers": [{"text": ["本"], "answer_start": [3]}]}  # fmt: skip
    found = encode_questions(load_examples(table), bytes_, 16)
    first, last = found.labels[0]
    assert last - first == 2  # three bytes
    assert {tuple(span) for span in found.spans[first : last + 1].tolist()} == {(3, 4)}
