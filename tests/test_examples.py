"""The examples in docstrings: they run, and no public name is without one."""

import doctest
import importlib
import inspect
import pkgutil
import re

import jax
import pytest

import jaxbert
from jaxbert.models import heads

PACKAGES = ("data", "models", "optim", "tasks", "training")
PUBLIC = ("jaxbert", *(f"jaxbert.{name}" for name in PACKAGES))
MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(jaxbert.__path__, "jaxbert.")
    if not found.name.endswith("__main__")  # which runs the command
)
# Of these the lines that are not run, because they need the network.
NOT_RUN = {"jaxbert.data.demo.load_demo", "jaxbert.data.demo.load_tags_demo"}


@pytest.fixture(scope="module", autouse=True)
def _compile_cheaply():
    """Compilation is nearly all the time here, and these programs run a step or two."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


def examples(module):
    """Those of a module's own docstrings: `DocTest`s."""
    found = doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", ["jaxbert", *MODULES])
def test_examples_run(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(verbose=False)
    report = []
    for test in examples(module):
        skipped = [e.source for e in test.examples if doctest.SKIP in e.options]
        assert not skipped or test.name in NOT_RUN
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


def public_names():
    """(package, name) of every class and function that a package gives; constants need none."""
    for package in PUBLIC:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield package, name


def has_example(value):
    """In its own docstring, or in that of the class of `heads` that it says to see."""
    doc = value.__doc__ or ""
    head = re.match(r"See `heads\.(\w+)`", doc)
    return ">>> " in (getattr(heads, head[1]).__doc__ if head else doc)


def test_every_public_name_has_an_example():
    without = [
        f"{package}.{name}"
        for package, name in public_names()
        if not has_example(getattr(importlib.import_module(package), name))
    ]
    assert not without, f"no Example in the docstring of {', '.join(without)}"
