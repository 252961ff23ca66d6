"""What a report lets people hear: what each system makes of a clip, whole or where it matters most."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import ray

from cluster.enhancement import enhance_audio, torch_threads
from cluster.evaluation.clips import Clip
from cluster.evaluation.scores import CLEAN, NOISY, Example, Score, facts_of
from ww_data import read_mono

CUT_S = 10.0  # of a longer clip so much is heard on the page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sounds:
    """What makes them. clips: by id. models: references, of a group its first member's.

    files: of systems that are files, the path of each clip.
    """

    clips: Mapping[str, Clip]
    models: Mapping[str, ray.ObjectRef]
    files: Mapping[str, Mapping[str, str]]

    def examples(
        self, scores: Sequence[Score], systems: Sequence[str], cpus: float, cut_s: float | None = None
    ) -> tuple[Example, ...]:
        """Those clips by these systems, made all over the cluster. cut_s: seconds to keep of each; None for all."""
        make = ray.remote(num_cpus=cpus)(_make)
        models = {name: ref for name, ref in self.models.items() if name in systems}
        files = {name: paths for name, paths in self.files.items() if name in systems}
        tasks = []
        for score in scores:
            own_files = {name: paths[score.clip_id] for name, paths in files.items()}
            tasks.append(make.remote(score, self.clips[score.clip_id], models, own_files, cut_s))
        return tuple(ray.get(tasks))


def _make(
    score: Score,
    clip: Clip,
    models: Mapping[str, ray.ObjectRef],
    files: Mapping[str, str],
    cut_s: float | None,
) -> Example:
    """Runs in Ray's processes."""
    noisy_T, clean_T = clip.read()
    signals = {NOISY: noisy_T}
    with torch_threads(1):
        for name, ref in models.items():
            signals[name] = enhance_audio(ray.get(ref), noisy_T[:, None], clip.sample_rate)[:, 0]
    for name, path in files.items():
        signals[name] = read_mono(path, clip.sample_rate)[: clip.num_samples]
    if clean_T is not None:
        signals[CLEAN] = clean_T
    # What has diverged has no scores, and is heard as silence.
    signals = {name: np.nan_to_num(signal_T, posinf=0, neginf=0) for name, signal_T in signals.items()}
    example = Example(**facts_of(score), signals=signals)
    return example if cut_s is None else cut(example, cut_s)


def cut(example: Example, seconds: float) -> Example:
    """The part of so many seconds where the systems, the noisy sound among them, differ most; all of a shorter one."""
    num_samples = round(seconds * example.sample_rate)
    systems = [signal_T for name, signal_T in example.signals.items() if name != CLEAN]
    length = min(map(len, example.signals.values()))
    if length <= num_samples:
        return example
    block = max(1, example.sample_rate // 100)
    total_B = np.concatenate([[0.0], np.cumsum(_differences(systems, length, block))])
    num_blocks = num_samples // block
    found = int(np.argmax(total_B[num_blocks:] - total_B[:-num_blocks])) * block
    start = min(found, length - num_samples)
    signals = {name: signal_T[start : start + num_samples] for name, signal_T in example.signals.items()}
    return dataclasses.replace(
        example, signals=signals, start_s=example.start_s + start / example.sample_rate
    )


def _differences(systems: Sequence[np.ndarray], length: int, block: int) -> np.ndarray:
    """Energy of what differs from the mean of all, by block of samples; a minute at a time, as clips may be long."""
    piece = 6000 * block
    energies = []
    for start in range(0, length, piece):
        part_ST = np.stack([signal_T[start : min(start + piece, length)] for signal_T in systems])
        energy_T = np.square(part_ST - part_ST.mean(axis=0)).sum(axis=0, dtype=np.float64)
        energies.append(np.add.reduceat(energy_T, np.arange(0, len(energy_T), block)))
    return np.concatenate(energies)
