"""Examples from columns: what labels mean, and every way they can be wrong."""

from dataclasses import replace

import numpy as np
import pytest

from jaxbert.data import Examples
from jaxbert.tasks import load_examples
from jaxbert.tasks.options import TEXT_CLASSIFICATION as CLASSIFICATION
from jaxbert.tasks.options import TEXT_REGRESSION as REGRESSION

TEXTS = ("a", "b", "c", "d")


def _load(labels, **options):
    columns = {"text": TEXTS[: len(labels)], "label": labels}
    return load_examples(columns, label_column="label", **options)


@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        (["pos", "neg", "pos", "mid"], ("mid", "neg", "pos"), [2, 1, 2, 0]),
        (["10", "9", "-1", " 9 "], ("-1", "9", "10"), [2, 1, 0, 1]),
        ([10, 9, -1, 9], ("-1", "9", "10"), [2, 1, 0, 1]),
        (np.array([1, 0, 1, 0]), ("0", "1"), [1, 0, 1, 0]),
        ([np.int64(1), np.int64(0)], ("0", "1"), [1, 0]),
        (["01", "1", "+1", "2"], ("1", "2"), [0, 0, 0, 1]),
        ([True, False], ("False", "True"), [1, 0]),
        (["1", "2", "other", "1"], ("1", "2", "other"), [0, 1, 2, 0]),
        (["ß", "z", "Z", "ß"], ("Z", "z", "ß"), [2, 1, 0, 2]),
    ],
)
def test_classes_and_their_order(labels, names, indices):
    examples = _load(labels)
    assert examples.label_names == names
    assert examples.task == CLASSIFICATION
    assert examples.labels.dtype == np.int32
    assert examples.labels.tolist() == indices


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        ([0.5, 1, -2.0], [0.5, 1, -2]),
        (["0.5", "1", "-2e-1", ".5"], [0.5, 1, -0.2, 0.5]),
        (np.array([1.5, 2.0], np.float32), [1.5, 2]),
        ([1.0, 0.0], [1, 0]),
        (["0.5", "3.4028234663852886e38"], [0.5, np.finfo(np.float32).max]),  # and no further
    ],
)
def test_decimals_mean_regression(labels, numbers):
    examples = _load(labels)
    assert examples.task == REGRESSION
    assert examples.label_names is None
    assert examples.labels.dtype == np.float32
    np.testing.assert_allclose(examples.labels, numbers)


def test_labels_are_mapped_onto_the_models_names():
    assert _load(["pos", "pos"], label_names=("neg", "pos")).labels.tolist() == [1, 1]
    assert _load(["b", "a"], label_names=("b", "a")).labels.tolist() == [0, 1]
    assert _load([2, 0], label_names=("0", "1", "2")).labels.tolist() == [2, 0]
    assert _load([1, 0], label_names=("LABEL_0", "LABEL_1")).labels.tolist() == [1, 0]
    decimals = _load(["1.0", "0.0"], label_names=("0.0", "1.0"))
    assert (decimals.task, decimals.labels.tolist()) == (CLASSIFICATION, [1, 0])


def test_a_task_that_is_named_decides():
    examples = _load(["3", "4"], task=REGRESSION)
    assert examples.labels.dtype == np.float32
    assert _load(["3.0", "2.5"], task=CLASSIFICATION).label_names == ("2.5", "3.0")
    with pytest.raises(ValueError, match=r"task='multi' must be one of text-classification"):
        _load(["a", "b"], task="multi")


def test_pairs_and_no_labels():
    columns = {"q": ["a", ""], "p": ["c", "d"]}
    examples = load_examples(columns, text_column="q", text_pair_column="p")
    assert examples.texts == ("a", "")
    assert examples.pairs == ("c", "d")
    assert examples.labels is examples.label_names is examples.task is None
    assert len(examples) == 2


def test_a_file(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("sentence,stars\ngood,5\nbad,1\n")
    examples = load_examples(path, text_column="sentence", label_column="stars")
    assert (examples.texts, examples.label_names) == (("good", "bad"), ("1", "5"))
    assert examples.source == str(path)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a", None, "b", ""], {}, r"column 'label' has no label in data row 2, 4 \(count"),
        ([0.5, float("nan")], {}, r"has no label in data row 2 .*: fill or delete it, or leave"),
        ([[1], {}, 0], {}, r"has list where one label is wanted in data row 1, 2 .* another col"),
        (["a", "a"], {}, r"holds one label only, 'a': want at least two classes"),
        (["0.5", "n/a", "x"], {}, r"has 'n/a' where decimals elsewhere make it a regression"),
        (["1e39", "-2e39", "0.5"], {}, r"has 1e39, which is beyond what 32 bits hold, in .* 1, 2 "),
        (["x", "y"], {"task": REGRESSION}, r"has 'x' where decimals"),
        (
            ["neg", "neutral", "mixed"],
            {"label_names": ("neg", "pos")},
            r"has labels the model does not know: 'neutral', 'mixed'; it knows 'neg', 'pos'",
        ),
        ([1, 0], {"label_names": ("neg", "pos")}, r"not know: '1', '0'; it knows 'neg', 'pos'"),
    ],
)  # fmt: skip
def test_faulty_labels(labels, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        _load(labels, **options)
    assert "\n" not in str(caught.value)


def test_many_faults_are_counted_not_listed():
    columns = {"text": ["x"] * 9, "label": [None] * 8 + ["a"]}
    with pytest.raises(ValueError, match=r"data row 1, 2, 3, 4, 5 and 3 more"):
        load_examples(columns, label_column="label")
    columns = {"text": ["x"] * 9, "label": [f"new{i}" for i in range(9)]}
    with pytest.raises(ValueError, match=r"'new0', .*'new4' and 4 more; it knows 'a', 'b'"):
        load_examples(columns, label_column="label", label_names=("a", "b"))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], r"column 'text' has no text in data row 2 .*: fill or delete"),
        ([1, 2], r"int where text is wanted in data row 1, 2 .*: name another column"),
        (["fine", "\ud800 half"], r"has half a surrogate pair, which is no text, in data row 2"),
        ([], r"dict of columns holds no examples"),
    ],
)  # fmt: skip
def test_faulty_texts(texts, message):
    with pytest.raises(ValueError, match=message):
        load_examples({"text": texts})


def test_all_missing_columns_at_once():
    columns = {"Sentence": ["a"], "stars": ["1"]}
    message = (
        r"dict of columns has no column 'sentance' \(text_column; did you mean 'Sentence'\?\) and "
        r"no column 'label' \(label_column\); its columns are 'Sentence', 'stars'"
    )
    with pytest.raises(ValueError, match=message):
        load_examples(columns, text_column="sentance", label_column="label")


def test_columns_of_different_lengths():
    with pytest.raises(ValueError, match=r"different lengths, .*'text_column': 1, .*make them"):
        load_examples({"text": ["a"], "label": ["1", "2"]}, label_column="label")


def test_the_fingerprint_is_of_the_content():
    base = Examples(("ab", "c"), labels=np.array([0, 1], np.int32), label_names=("x", "y"))
    assert base.fingerprint == replace(base, source="elsewhere").fingerprint
    others = [
        replace(base, texts=("a", "bc")),
        replace(base, texts=("c", "ab")),
        replace(base, pairs=("", "")),
        replace(base, labels=np.array([1, 0], np.int32)),
        replace(base, labels=None),
        replace(base, label_names=("x", "z")),
        Examples(("ab",), pairs=("c",)),
        Examples(("ab", "c")),
    ]
    assert len({e.fingerprint for e in [base, *others]}) == len(others) + 1


REASONS = [
    (["a", "b"], {}, CLASSIFICATION, "dict of columns: column 'label' holds names"),
    (["0", "1"], {}, CLASSIFICATION, "dict of columns: column 'label' holds whole numbers"),
    (["a", "b"], {"label_names": ["b", "a"]}, CLASSIFICATION, "the classes' names are given"),
    ([1, 0], {"task": REGRESSION}, REGRESSION, "as asked for"),
    ([2, 0.5], {}, REGRESSION, "holds numbers with a decimal point, 0.5 in data row 2 for one"),
    (
        [0.0, 1.0],
        {},
        REGRESSION,
        "for one; they are whole, task text-classification makes classes of them",
    ),
]


@pytest.mark.parametrize(("labels", "more", "task", "reason"), REASONS)
def test_what_was_decided_and_why(labels, more, task, reason):
    examples = _load(labels, **more)
    assert examples.task == task
    assert examples.reason.endswith(reason)


@pytest.mark.parametrize("label", ["nan", "NaN", " NAN "])
def test_a_label_that_stands_for_none_is_refused(label):
    message = r"has 'nan', which stands for no label, in data row 2 .*: fill or delete it, or give"
    with pytest.raises(ValueError, match=f"(?i){message}"):
        _load(["a", label, "b"])
    with pytest.raises(ValueError, match=r"has 'NaN', which .* in data row 2, 3"):
        _load(["a", "NaN", "nan"])
