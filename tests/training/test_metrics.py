"""Scores against values worked out by hand."""

import numpy as np
import pytest
import sklearn.metrics

from jaxbert.tasks import TEXT_CLASSIFICATION, TEXT_REGRESSION
from jaxbert.tasks.metrics import (
    CLASSIFICATION,
    MULTI_LABEL,
    REGRESSION,
    compute_scores,
    count_classes,
)


def test_classification_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    guesses = np.array([1, 1, 0, 0, 0, 0, 1, 1])
    tp, fp, fn, tn = 3, 1, 1, 3
    f1 = (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn)) / 2
    scores = compute_scores(CLASSIFICATION, labels, guesses)
    assert scores["accuracy"] == pytest.approx(6 / 8)
    assert scores["macro_f1"] == pytest.approx(f1)
    assert scores["matthews"] == pytest.approx((tp * tn - fp * fn) / 16)


def test_macro_f1_weighs_a_rare_class_as_much():
    scores = compute_scores(CLASSIFICATION, np.array([0, 0, 0, 1]), np.zeros(4, int))
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((6 / 7 + 0) / 2)
    assert scores["matthews"] == 0


@pytest.mark.parametrize(("classes", "examples"), [(2, 50), (3, 4), (7, 200)])
@pytest.mark.parametrize("seed", range(3))
def test_scores_of_classes_against_scikit_learn(classes, examples, seed):
    rng = np.random.default_rng(seed)
    labels, guesses = rng.integers(0, classes, (2, examples))
    guesses = np.where(rng.random(examples) < 0.4, labels, guesses)
    scores = compute_scores(CLASSIFICATION, labels, guesses)
    wanted = sklearn.metrics.f1_score(labels, guesses, average="macro", zero_division=0)
    assert scores["macro_f1"] == pytest.approx(wanted)
    assert scores["matthews"] == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, guesses))
    count = count_classes(labels, guesses)
    each = sklearn.metrics.precision_recall_fscore_support(labels, guesses, zero_division=0)
    for found, theirs in zip((count.precision, count.recall, count.f1), each, strict=False):
        np.testing.assert_allclose(found, theirs)
    assert count.labelled.tolist() == each[3].tolist()


def test_one_class_alone():
    scores = compute_scores(CLASSIFICATION, np.array([1, 1]), np.array([1, 1]))
    assert scores == {"accuracy": 1, "macro_f1": 1, "matthews": 0}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_scores_of_several_labels_against_scikit_learn(share):
    rng = np.random.default_rng(0)
    labels, guesses = rng.random((2, 40, 5)) < share
    labels[:, 0] = guesses[:, 1] = False
    scores = compute_scores(MULTI_LABEL, labels, guesses)
    for average in ("micro", "macro"):
        wanted = sklearn.metrics.f1_score(labels, guesses, average=average, zero_division=0)
        assert scores[f"{average}_f1"] == pytest.approx(wanted)


def test_a_negative_tag_is_no_class():
    count = count_classes(np.array([0, 1, 1]), np.array([0, -1, 1]))
    assert count.right.tolist() == [1, 1]
    assert count.labelled.tolist() == [1, 2]
    assert count.predicted.tolist() == [1, 1]


def test_regression_by_hand():
    labels = np.array([1.0, 2.0, 3.0, 4.0])
    guesses = np.array([1.0, 4.0, 9.0, 16.0])
    scores = compute_scores(REGRESSION, labels, guesses)
    assert scores["mse"] == pytest.approx((0 + 4 + 36 + 144) / 4)
    assert scores["spearman"] == pytest.approx(1)
    deviations = guesses - 7.5
    pearson = (np.array([-1.5, -0.5, 0.5, 1.5]) @ deviations) / np.sqrt(5 * deviations @ deviations)
    assert scores["pearson"] == pytest.approx(pearson)
    ties = compute_scores(REGRESSION, labels, np.array([3.0, 1.0, 1.0, 0.0]))
    assert ties["spearman"] == pytest.approx(-4.5 / np.sqrt(5 * 4.5))


def test_a_constant_correlates_with_nothing():
    scores = compute_scores(REGRESSION, np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert scores["pearson"] == scores["spearman"] == 0
    scores = compute_scores(REGRESSION, np.array([3.0, 3.0]), np.array([1.0, 3.0]))
    assert scores["pearson"] == scores["spearman"] == 0


def test_a_label_that_nobody_has_or_is_told_scores_nothing():
    labels = np.array([[1, 0], [0, 0]], bool)
    assert compute_scores(MULTI_LABEL, labels, labels)["macro_f1"] == 0.5


@pytest.mark.parametrize(
    ("task", "name", "wanted"),
    [
        (TEXT_CLASSIFICATION, None, ("accuracy", True)),
        (TEXT_CLASSIFICATION, "macro_f1", ("macro_f1", True)),
        (TEXT_CLASSIFICATION, "loss", ("loss", False)),
        (TEXT_REGRESSION, None, ("mse", False)),
        (TEXT_REGRESSION, "pearson", ("pearson", True)),
    ],
)
def test_selection_metric(task, name, wanted):
    assert task.selection_metric(name) == wanted


def test_unknown_metric_names_those_there_are():
    with pytest.raises(ValueError, match="'f1' is not one of accuracy, macro_f1, matthews, loss"):
        TEXT_CLASSIFICATION.selection_metric("f1")
