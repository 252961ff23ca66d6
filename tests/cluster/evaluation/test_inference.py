"""Clips through a model at once are what each is alone; a stream is the whole clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cluster.enhancement import enhance_audio
from cluster.evaluation.inference import enhance_clips, stream_clip
from tests.conftest import speech_like
from ww_models import Denoiser, build_model
from ww_models.streaming.onnx_engine import OnnxEngine


def clips() -> list[tuple[np.ndarray, int]]:
    """Of several lengths and rates, with an offset."""
    rng = np.random.default_rng(0)
    found = []
    for seconds, rate in ((1.0, 16_000), (0.4, 16_000), (1.0, 16_000), (0.7, 48_000), (0.3, 8_000)):
        voice_T = (
            speech_like(rng, seconds * rate / 16_000)
            + 0.02 * rng.standard_normal(round(seconds * rate))
            + 0.1
        )
        found.append((voice_T.astype(np.float32), rate))
    return found


@pytest.mark.parametrize(
    "settings", [{}, {"causal": False}, {"normalize": "utterance"}], ids=["causal", "whole clip", "utterance"]
)
def test_together_they_are_what_each_is_alone(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    model: Denoiser = build_model("gatewave", hidden=4, depth=2, residual=True, **settings)
    given = clips()
    for (noisy_T, rate), together_T in zip(given, enhance_clips(model, given), strict=True):
        alone_T = enhance_audio(model, noisy_T[:, None], rate)[:, 0]
        assert together_T.dtype == np.float32
        np.testing.assert_allclose(together_T, alone_T, atol=1e-5)


def test_a_stream_is_the_whole_clip() -> None:
    torch.manual_seed(0)
    model = build_model("gatewave", hidden=4, depth=2, residual=True)
    engine = OnnxEngine.from_model(model)
    for noisy_T, rate in clips():
        whole_T = enhance_audio(model, noisy_T[:, None], rate)[:, 0]
        np.testing.assert_allclose(stream_clip(engine, noisy_T, rate), whole_T, atol=1e-5)
