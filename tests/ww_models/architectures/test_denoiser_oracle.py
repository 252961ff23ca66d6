"""Our Demucs against that of `denoiser` 0.1.5: stored outputs always, its own code where it is installed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ww_models.goldens.formula import denoiser_state, signal
from tests.ww_models.goldens.make_denoiser_goldens import FORMS, GOLDENS
from ww_models import Demucs, build_model, load_denoiser_checkpoint


def our_shapes(settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of the parameters that denoiser's Demucs has with these settings: the names are the same."""
    ours = {name: value for name, value in settings.items() if name != "normalize"}
    with torch.random.fork_rng():
        model = build_model("demucs", **ours)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def loaded(tmp_path: Path, settings: dict[str, Any]) -> Demucs:
    """Through a file: a state dict where its shapes say enough, with what they do not say given beside it."""
    torch.save(denoiser_state(our_shapes(settings)), tmp_path / "form.th")
    unsaid: dict[str, Any] = {name: settings[name] for name in ("stride", "resample") if name in settings}
    if settings.get("normalize") is False:
        unsaid["normalize"] = "none"
    model = load_denoiser_checkpoint(tmp_path / "form.th", **unsaid)
    (tmp_path / "form.th").unlink()
    return model


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("form", FORMS)
def test_output_is_that_of_denoiser_to_the_last_samples(form: str, tmp_path: Path) -> None:
    settings, lengths = FORMS[form]
    model = loaded(tmp_path, settings)
    with np.load(GOLDENS) as goldens:
        for num_samples in lengths:
            expected = torch.from_numpy(goldens[f"{form}/{num_samples}"])
            with torch.no_grad():
                output = model(signal(form, num_samples))[0, 0]
            assert output.shape == expected.shape
            assert relative_error(output, expected) <= 1e-5, num_samples


@pytest.mark.parametrize("form", ["48", "small-as-it-is", "small-ragged"])
def test_output_is_that_of_denoiser_as_it_is_installed(form: str, tmp_path: Path) -> None:
    theirs = pytest.importorskip("denoiser.demucs").Demucs(**FORMS[form][0]).eval()
    ours = loaded(tmp_path, FORMS[form][0])
    theirs.load_state_dict(ours.state_dict())
    for num_samples in (2, 597, 3001, 8000):
        noisy = signal("live", num_samples, batch=2)
        with torch.no_grad():
            assert relative_error(ours(noisy), theirs(noisy)) <= 1e-5


@pytest.mark.parametrize("normalize", [True, False])
def test_a_package_of_denoiser_as_it_is_installed(normalize: bool, tmp_path: Path) -> None:
    demucs = pytest.importorskip("denoiser.demucs")
    utils = pytest.importorskip("denoiser.utils")
    theirs = demucs.Demucs(hidden=6, depth=3, resample=2, causal=False, normalize=normalize).eval()
    torch.save(utils.serialize_model(theirs), tmp_path / "best.th")
    ours = load_denoiser_checkpoint(tmp_path / "best.th")
    noisy = signal("package", 1500)
    with torch.no_grad():
        assert relative_error(ours(noisy), theirs(noisy)) <= 1e-5
