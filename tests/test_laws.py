"""The laws of the house (docs/architecture.md): who may import whom, and how much lies in one place."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"ww_models", "ww_data", "cluster", "jobs"}
MAX_FILES = 13  # in a folder of the product, packages' __init__ aside
HEAVY = {"ray", "lightning", "pytorch_lightning", "clearml"}
FORBIDDEN = {
    "ww_models": (OURS - {"ww_models"}) | HEAVY | {"fastapi", "soundfile", "torchaudio"},
    "ww_data": (OURS - {"ww_data"}) | HEAVY | {"fastapi"},
    "cluster": {"jobs"},
    "jobs": {"lightning", "pytorch_lightning", "clearml", "fastapi"},
}


def imported_packages(path: Path) -> set[str]:
    """Top-level names of everything a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_package_imports_only_what_it_may_know(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no files in {package}: the law would hold for nothing"
    broken = {
        str(file.relative_to(ROOT)): sorted(found)
        for file in files
        if (found := imported_packages(file) & FORBIDDEN[package])
    }
    assert not broken


def test_top_level_is_what_the_architecture_says() -> None:
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert packages == OURS


def test_every_file_says_what_it_is() -> None:
    silent = [
        str(file.relative_to(ROOT))
        for package in OURS
        for file in (ROOT / package).rglob("*.py")
        if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) and file.stat().st_size
    ]
    assert not silent


def modules() -> dict[str, Path]:
    """{dotted name: file} of the product; a package goes by its own name."""
    files = (file for package in OURS for file in (ROOT / package).rglob("*.py"))
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def imports_of(file: Path, known: Collection[str]) -> set[str]:
    """Modules of the product that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{file}: imports are written with their full names"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner if inner <= set(known) else {node.module} | (inner & set(known))
    return found & set(known)


@pytest.fixture(scope="module")
def imports() -> set[tuple[str, str]]:
    """(who, whom) for each import of one module of the product by another."""
    known = modules()
    pairs = {(name, other) for name, file in known.items() for other in imports_of(file, known) - {name}}
    assert len(pairs) > 200, "imports are not found: the laws would hold for nothing"
    return pairs


def test_no_import_runs_in_a_circle(imports: set[tuple[str, str]]) -> None:
    """Seen from each folder: what lies in it, a file or a folder with all that it holds, can be put in an order.

    So no two modules import each other by any way, and no two folders do.
    """
    folders = {"", *(name for name, file in modules().items() if file.name == "__init__.py")}
    for folder in folders:
        inside = f"{folder}." if folder else ""
        needs: dict[str, set[str]] = {}
        for pair in imports:
            if all(name.startswith(inside) for name in pair):
                who, whom = (name.removeprefix(inside).partition(".")[0] for name in pair)
                if who != whom:
                    needs.setdefault(who, set()).add(whom)
        try:
            list(TopologicalSorter(needs).static_order())
        except CycleError as error:
            pytest.fail(f"in {folder or 'the top level'}: {' -> '.join(error.args[1])}")


def test_no_import_runs_upwards(imports: set[tuple[str, str]]) -> None:
    """A package's own __init__ gathers what is for others; nothing inside of it imports from there."""
    assert not [f"{who} imports {whom}" for who, whom in imports if who.startswith(f"{whom}.")]


def test_no_folder_is_more_than_a_newcomer_takes_in() -> None:
    folders = {path for package in OURS for path in (ROOT / package).rglob("*") if path.is_dir()}
    folders = {folder for folder in folders if folder.name != "__pycache__"}
    for folder in folders | {ROOT / package for package in OURS}:
        files = [path.name for path in folder.iterdir() if path.is_file() and path.name != "__init__.py"]
        assert len(files) <= MAX_FILES, f"{folder.relative_to(ROOT)} holds {len(files)} files"


def test_private_names_of_ray_stand_in_one_place() -> None:
    """So that an upgrade of Ray is a matter of one file."""
    private = re.compile(r"\bray(\.\w+)*\._\w|\bfrom ray[\w.]* import .*\b_\w")
    files = [file for package in sorted(OURS) for file in (ROOT / package).rglob("*.py")]
    found = {
        str(file.relative_to(ROOT)) for file in files if private.search(file.read_text(encoding="utf-8"))
    }
    assert found == {"cluster/machine/ray_internals.py"}


def test_the_walks_lead_through_files_that_exist() -> None:
    """docs/architecture.md: for each walk the most files that a reader opens."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walks = text.partition("## Five walks")[2].partition("\n## ")[0].split("\n**")[1:]
    longest = (18, 13, 7, 22, 11)
    assert len(walks) == len(longest)
    for walk, most in zip(walks, longest, strict=True):
        files = re.findall(r"^\d+\. `([^`]+)`", walk, re.MULTILINE)
        assert 3 < len(set(files)) == len(files) <= most, walk
        assert not [name for name in files if not (ROOT / name).is_file()]
