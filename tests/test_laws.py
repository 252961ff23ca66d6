"""The laws of the house (docs/architecture.md): who may import whom."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"ww_models", "ww_data", "cluster", "jobs"}
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


def test_private_names_of_ray_stand_in_one_place() -> None:
    """So that an upgrade of Ray is a matter of one file."""
    private = re.compile(r"\bray(\.\w+)*\._\w|\bfrom ray[\w.]* import .*\b_\w")
    files = [file for package in sorted(OURS) for file in (ROOT / package).rglob("*.py")]
    found = {
        str(file.relative_to(ROOT)) for file in files if private.search(file.read_text(encoding="utf-8"))
    }
    assert found == {"cluster/machine/ray_internals.py"}
