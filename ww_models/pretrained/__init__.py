"""The denoiser in the box: a bundle that comes with the package, for whoever has none of their own."""

from pathlib import Path

from ww_models.bundle.bundle import load_bundle
from ww_models.bundle.info import read_bundle_info
from ww_models.denoiser import Denoiser

PRETRAINED = Path(__file__).parent / "bandmask-compact"


def load_pretrained() -> Denoiser:
    """16 kHz, causal, 32 ms of latency; its folder, `PRETRAINED`, has a card that says what it was trained on."""
    return load_bundle(PRETRAINED)


def pretrained_note() -> str:
    """For people, in a line: that it is this model which is used."""
    return f"model: {read_bundle_info(PRETRAINED).id}, which comes with Wave Wizard; its card: {PRETRAINED}/README.md"
