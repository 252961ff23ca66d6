"""`torchaudio.transforms`, also beside a torch without CUDA.

torchaudio's wheel links CUDA: with a CPU-only torch its C++ extension cannot load. What is used here is pure Python, so
after the plain import failed a stand-in takes the place of the extension and the import is tried again.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import sys
import types
from typing import Any

_EXTENSION = "torchaudio._extension"


def _stand_in() -> types.ModuleType:
    """A `torchaudio._extension` that says: no compiled parts here."""

    def fail_if_no_align(function: Any) -> Any:
        @functools.wraps(function)
        def unavailable(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError(
                f"{function.__name__} needs torchaudio's compiled extension, which did not load"
            )

        return unavailable

    module = types.ModuleType(_EXTENSION)
    module.__spec__ = importlib.machinery.ModuleSpec(_EXTENSION, loader=None)
    module.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        fail_if_no_align=fail_if_no_align,
    )
    return module


@functools.cache
def torchaudio_transforms() -> Any:
    """The module `torchaudio.transforms`. Imports torch (seconds), so call it only where it is needed."""
    try:
        return importlib.import_module("torchaudio.transforms")
    except OSError:
        for name in [name for name in sys.modules if name == "torchaudio" or name.startswith("torchaudio.")]:
            del sys.modules[name]
        sys.modules[_EXTENSION] = _stand_in()
        return importlib.import_module("torchaudio.transforms")
