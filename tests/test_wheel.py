"""The wheel holds the whole product: every module of it imports, every page, preset and template is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cluster", "jobs", "ww_data", "ww_models")
IMPORT_ALL = """
import importlib, pathlib, sys
home = pathlib.Path(sys.argv[1])
for name in sys.argv[2:]:
    module = importlib.import_module(name)
    assert pathlib.Path(module.__file__).is_relative_to(home), f"{name} comes from {module.__file__}"
"""


def tracked() -> set[str]:
    """What git knows of the packages: what a build folder may have left there does not count."""
    listing = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name for name in listing.stdout.splitlines() if (ROOT / name).exists()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the wheel in it. Built from a copy, for a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*tracked(), "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(folder / "site"), str(source)], check=True, timeout=800
    )
    return folder / "site"


def test_every_file_of_the_product_is_installed(installed: Path) -> None:
    found = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert tracked() <= found
    assert {Path(name).suffix for name in tracked()} >= {".html", ".js", ".css", ".jinja", ".yaml"}


def test_every_module_imports_from_there(installed: Path, tmp_path: Path) -> None:
    names = [
        ".".join(Path(name).with_suffix("").parts).removesuffix(".__init__")
        for name in sorted(tracked())
        if name.endswith(".py") and Path(name).name != "__main__.py"
    ]
    assert len(names) > 100
    subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(installed), *names],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=800,
    )
