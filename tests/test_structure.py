"""What a reader may rely on: short files and functions, families named in their own place."""

import ast
import re
from pathlib import Path

import pytest

from jaxbert.models.auto import FAMILIES
from jaxbert.optim.layers import CONVENTIONS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxbert"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def name(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long


def family_names(text):
    """Class names, types, paths and attributes that are a family's."""
    found, text = [], re.sub(r"\btransformers\.\w+", "", text)
    for model_type, row in FAMILIES.items():
        found += re.findall(rf"\b{row.prefix}[A-Z]\w+", text)
        found += re.findall(rf"""["']{model_type}["'/.]|\.{model_type}\b|\b{model_type}/""", text)
    return found


def test_what_a_family_name_is():
    for text in ("BertModel(", "model.bert.pooler", "x == 'bert'", '"bert/pooler"'):
        assert family_names(text), text
    for text in ("BERT in JAX", "jaxbert.models", "'jaxbert'", "google-research/bert"):
        assert not family_names(text), text


# Examples in docstrings are of some family, for a model has one.
EXAMPLE = re.compile(r'^ *Example:\n(?:(?! *""").+\n)*', re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_families_are_named_in_their_own_place_only(path):
    if path.parent.name == "families" or name(path) == "models/auto.py":
        return
    text = EXAMPLE.sub("", path.read_text(encoding="utf-8"))
    if path.parent.name == "optim":  # how depth is counted is called after who counts so
        text = re.sub(rf"""["'](?:{"|".join(CONVENTIONS)})["']""", "", text)
    assert not family_names(text)
