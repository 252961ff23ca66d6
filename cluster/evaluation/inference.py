"""Clips through a model, several at once: whole, or as the stream that is deployed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from cluster.sound.bands import clip_back
from cluster.sound.offset import OffsetRemover
from ww_data import resample
from ww_models import Denoiser, enhance
from ww_models.enhancement import WINDOW_S
from ww_models.streaming.onnx_engine import OnnxEngine
from ww_models.streaming.streamer import Streamer


def enhance_clips(model: Denoiser, clips: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
    """What `enhance_audio` makes of each clip alone, to rounding; computed where the model lies.

    clips: (samples (T,) float32 at full scale +-1, sample rate in Hz).
    """
    device = next(model.parameters()).device
    dry, inputs = zip(*[_to_model(noisy_T, rate, model.sample_rate) for noisy_T, rate in clips], strict=True)
    outputs: dict[int, np.ndarray] = {}
    for group in _groups(model, [len(each) for each in inputs]):
        longest = max(len(inputs[index]) for index in group)
        padded = np.stack([np.pad(inputs[index], (0, longest - len(inputs[index]))) for index in group])
        enhanced = enhance(model, torch.from_numpy(padded)[:, None].to(device)).squeeze(1).cpu().numpy()
        outputs |= {index: row[: len(inputs[index])] for index, row in zip(group, enhanced, strict=True)}
    return [
        clip_back("full", dry[index], inputs[index], outputs[index], rate, model.sample_rate)
        for index, (_, rate) in enumerate(clips)
    ]


def stream_clip(engine: OnnxEngine, noisy_T: np.ndarray, sample_rate: int) -> np.ndarray:
    """A clip as a stream of an engine, hop by hop, as it is deployed: (T,) float32."""
    streamer = Streamer(engine)
    dry_T, fed_T = _to_model(noisy_T, sample_rate, engine.sample_rate)
    parts = [streamer.feed(fed_T[None]), streamer.flush()]
    streamed_T = np.concatenate([np.asarray(part) for part in parts], axis=-1)[0]
    return clip_back("full", dry_T, fed_T, streamed_T, sample_rate, engine.sample_rate)


def _groups(model: Denoiser, lengths: Sequence[int]) -> Iterable[list[int]]:
    """Places of clips that may go through the model together.

    A model that looks ahead so far and no farther does not hear what a clip is padded with: silence, which is what it
    finds behind a clip's end anyway. One that hears the whole clip takes those of one length.
    """
    together: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        is_short = (
            length <= WINDOW_S * model.sample_rate
        )  # longer ones are cut, at places that go by their length
        together.setdefault(0 if model.latency_samples is not None and is_short else length, []).append(index)
    return together.values()


def _to_model(noisy_T: np.ndarray, sample_rate: int, model_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Without its offset, at its own rate and at the model's."""
    dry_T = OffsetRemover(sample_rate, 1).feed(noisy_T[None])[0]
    return dry_T, np.ascontiguousarray(resample(dry_T, sample_rate, model_rate), dtype=np.float32)
