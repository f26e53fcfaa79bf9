"""Who may import whom: folders by the law, files only those listed above them."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxbert"

# Files beside the folders that all may import; they import nothing of ours but each other.
COMMON = {"errors", "atomic", "cpu", "lazy", "settings"}
# folder -> folders of ours it may import
FOLDERS = {
    "weights": set(),
    "data": set(),
    "optim": set(),
    "models": {"weights"},
    "tasks": {"models", "data", "weights"},
    "training": {"models", "data", "optim", "weights", "tasks"},
    "lab": {"models", "data", "optim", "weights", "tasks", "training"},
    "plan": {"models", "data", "optim", "weights", "tasks", "training"},
    "cli": {"models", "data", "optim", "weights", "tasks", "training", "lab", "plan"},
}
# folder -> its files, each of which may import those before it
ORDER = {
    "weights": "rename json_files readers writer directory pretrained",
    "weights/readers": (
        "stored safetensors zip_archive torch_pickle torch_zip msgpack crc32c wire sstable"
        " tensorflow"
    ),
    "models": (
        "compute config_checks config outputs dropout positions visibility primitives kernels"
        " residual attention encoder stack "
        "model head_modules heads families auto"
    ),
    "tasks": (
        "options labels label_sets losses metrics task text_classification multi_label entities"
        " sentences token_classification questions answers answer_scores question_answering"
        " multiple_choice masked_lm registry"
    ),
    "data": "squad lines conll tables sources features tokenization packing batching prefetch demo",
    "optim": (
        "schedules layers config exploratory strategies groups start averages low_rank directions"
        " optimizer rate_plan table"
    ),
    "lab": (
        "metric data drift by_example journal statistics bootstrap sequential plan_file stage"
        " adaptation run making records journals study range_test wording comparisons claims"
        " verdicts regions campaign tables advice svg plots page report"
    ),
    "plan": "hardware flops hlo products sending traffic costs compile search",
    "cli": "flags data_options options common finetune infer export rates study_plan lab plan main",
    "training": (
        "distributed config engines points step assemble predictor sentences pooling embedding"
        " run_directory lock events record checkpoint interruption pace callbacks card run loop"
        " trainer outline hub export"
    ),
    "training/engines": "base jit pmap mesh programs",
}
NEVER = {"torch", "tensorflow"}
# Too slow to import for somebody who only wants `import jaxbert` or `--help`.
HEAVY = {"transformers", "datasets", "matplotlib", "sklearn", "orbax", "tqdm"}


def imports(path):
    """(module, whether at the top level) of every import; `from a import b` counts as a.b too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield name, node in tree.body


def modules_of_ours(path):
    for name, _ in imports(path):
        parts = name.split(".")
        target = PACKAGE.joinpath(*parts[1:])
        if parts[0] == "jaxbert" and (target.is_dir() or target.with_suffix(".py").is_file()):
            yield parts[1:]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_obey_the_law(path):
    own_parts = path.relative_to(PACKAGE).with_suffix("").parts
    folder = own_parts[0] if path.parent != PACKAGE else None
    for parts in modules_of_ours(path):
        may = folder == "cli" or path.name == "__main__.py"
        assert parts[:1] != ["cli"] or may, "nothing imports cli"
        if parts[:1] and parts[0] in COMMON:
            continue
        assert path.parent != PACKAGE or path.stem not in COMMON, f"{path.stem} imports {parts}"
        if folder and parts and parts[0] != folder:
            assert parts[0] in FOLDERS[folder], f"{folder} may not import {parts[0]}"
        for above, files in ORDER.items():
            depth = above.count("/") + 1
            own, other = own_parts[depth:], parts[depth:]
            if "/".join(own_parts[:depth]) != above or "/".join(parts[:depth]) != above:
                continue
            if own and other and own[0] not in ("__init__", other[0]):
                order = files.split()
                assert order.index(other[0]) < order.index(own[0]), f"{own[0]} is above {other[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_pytorch_and_no_slow_import_at_the_top(path):
    for name, top in imports(path):
        root = name.split(".")[0]
        assert root not in NEVER
        assert not (top and root in HEAVY), f"import {root} inside the function that needs it"


def test_every_file_has_its_place():
    for folder, files in ORDER.items():
        found = {p.stem for p in (PACKAGE / folder).iterdir()} - {"__init__", "__pycache__"}
        assert found == set(files.split()), folder


# What is run by hand only, and so has no other test that would miss a name that has moved.
OUTSIDE = sorted(
    path for folder in ("benchmarks", "scripts") for path in (PACKAGE.parent / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: str(p.relative_to(PACKAGE.parent)))
def test_what_benchmarks_take_from_the_package_is_there(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "jaxbert"):
            continue
        module = importlib.import_module(node.module)
        for alias in node.names:
            file = f"{node.module}.{alias.name}"
            is_file = hasattr(module, "__path__") and importlib.util.find_spec(file)
            assert hasattr(module, alias.name) or is_file, f"{file}, line {node.lineno}"
