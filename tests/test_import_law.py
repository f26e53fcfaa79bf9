"""Who may import whom: folders by the law, files only those listed above them."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxbert"

# folder -> folders of ours it may import
FOLDERS = {
    "weights": set(),
    "data": set(),
    "optim": set(),
    "models": {"weights"},
    "training": {"models", "data", "optim", "weights"},
    "lab": {"models", "data", "optim", "weights", "training"},
    "plan": {"models", "data", "optim", "weights", "training"},
}
# folder -> its files, each of which may import those before it
ORDER = {
    "weights": "rename formats pretrained",
    "models": "config dropout primitives fused attention encoder families heads",
    "data": "tables sources tokenization packing batching demo",
    "optim": "schedules layers config strategies groups optimizer",
    "lab": "data drift run study range_test journals statistics verdicts plots report",
    "plan": "hardware flops hlo compile search",
    "training": (
        "losses metrics step memory parallel distributed config record checkpoint inference loop"
        " trainer"
    ),
}
NEVER = {"torch", "tensorflow"}
# Too slow to import for somebody who only wants `import jaxbert` or `--help`.
HEAVY = {"transformers", "datasets", "matplotlib", "sklearn", "orbax", "tensorboardX", "tqdm"}


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
    folder = path.parent.name if path.parent != PACKAGE else None
    for parts in modules_of_ours(path):
        assert parts[:1] != ["cli"] or path.name == "__main__.py", "nothing imports cli"
        if folder and parts and parts[0] != folder:
            assert parts[0] in FOLDERS[folder], f"{folder} may not import {parts[0]}"
        if folder in ORDER and len(parts) == 2 and parts[0] == folder and path.stem != "__init__":
            files = ORDER[folder].split()
            assert files.index(parts[1]) < files.index(path.stem), (
                f"{path.stem} is above {parts[1]}"
            )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_pytorch_and_no_slow_import_at_the_top(path):
    for name, top in imports(path):
        root = name.split(".")[0]
        assert root not in NEVER
        assert not (top and root in HEAVY), f"import {root} inside the function that needs it"


def test_every_file_has_its_place():
    for folder, files in ORDER.items():
        found = {p.stem for p in (PACKAGE / folder).glob("*.py")} - {"__init__"}
        assert found == set(files.split()), folder
