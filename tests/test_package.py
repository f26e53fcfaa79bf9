"""The package from outside: names, start-up, what an import drags in."""

import subprocess
import sys

import pytest

import jaxbert


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_every_public_name_is_there():
    for name in jaxbert.__all__:
        assert getattr(jaxbert, name) is not None
    assert set(jaxbert.__all__) <= set(dir(jaxbert))
    with pytest.raises(AttributeError, match="no attribute 'Bort'"):
        jaxbert.Bort  # noqa: B018


@pytest.mark.parametrize("names", ["", "BertModel, Trainer, load_examples, OptimizerConfig"])
def test_import_stays_light(names):
    code = f"import sys, jaxbert\n{f'from jaxbert import {names}' if names else ''}\n"
    loaded = run(code + "print(*{name.split('.')[0] for name in sys.modules})").split()
    heavy = {"transformers", "datasets", "matplotlib", "torch", "sklearn", "pandas"}
    assert not heavy & set(loaded)


def test_help_needs_neither_jax_nor_numpy():
    code = (
        "import sys\nfrom jaxbert.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('loaded', *{name.split('.')[0] for name in sys.modules})"
    )
    usage, _, loaded = run(code).partition("\nloaded ")
    assert "finetune" in usage
    assert not {"jax", "flax", "numpy"} & set(loaded.split())
