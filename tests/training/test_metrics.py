"""Scores against values worked out by hand."""

import numpy as np
import pytest

from jaxbert.tasks import TEXT_CLASSIFICATION, TEXT_REGRESSION
from jaxbert.tasks.metrics import CLASSIFICATION, MULTI_LABEL, REGRESSION, compute_scores


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
