"""Writes the stored mixtures of the held-out splits (see ww_data.corpus.stored_mixtures).

They take turns over all speakers and all noise recordings of their split; every SNR occurs equally often. Segments
that were recorded with a noise of their own become mixtures as they were recorded, each of them once.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ww_data.corpus.banks import NoiseBank
from ww_data.corpus.segments import SegmentBlock, read_shard
from ww_data.dsp import activity, frame_energies, frame_length
from ww_data.manifest import CorpusError
from ww_data.mixing.draw import MixingConfig, MixtureDraw, draw_mixture, mixture_rng
from ww_data.mixing.levels import gains
from ww_data.mixing.mix import mix
from ww_data.randomness import hash64, keyed_order, philox
from ww_data.storage import Storage

Item = TypeVar("Item")
Row = dict[str, Any]  # of the file: its value in each column

# Segments of which less than this is speech (or is there at all) are taken only of speakers without others.
_MIN_ACTIVITY = 0.4
_MIN_VALID = 0.75
# A crop that is this much quieter than its recording is drawn again: it would be a pause blown up to noise.
_PAUSE_DB = 15.0
_MAX_DRAWS = 10
_ROWS_PER_GROUP = 16
_HASH_KEY = b"manifest_hash"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A segment that could become a mixture: the shard and row it is stored in, and how much of it is speech."""

    shard: str
    row: int
    key: int
    clip_id: str
    start: int
    speaker: str
    activity: float
    valid_fraction: float


def write_mixtures(
    target: Path | pa.NativeFile,
    storage: Storage,
    candidates: Sequence[Candidate],
    bank: NoiseBank,
    *,
    split: str,
    num_mixtures: int,
    snr_db: Sequence[float],
    seed: int,
    manifest_hash: str,
) -> int:
    """Choose and mix `num_mixtures` whole segments of `storage`, write them to one Parquet file; how many there are.

    There are fewer if all segments were recorded with a noise of their own and do not suffice: each is taken once.
    """
    chosen = _choose_speech(candidates, bank, num_mixtures, seed)
    blocks = _read_chosen(storage, chosen)
    noises = _take_turns(_by_recording(bank), len(chosen), seed)
    snrs = _balanced_snrs(snr_db, len(chosen), seed)
    rows = []
    writer = None
    try:
        for index, (candidate, noise_index, snr) in enumerate(zip(chosen, noises, snrs, strict=True)):
            block, name = blocks[candidate.shard, candidate.row], f"{split}-{index:05d}"
            recorded = _as_recorded(name, block, bank)
            rng = mixture_rng(seed, index, candidate.key)
            rows.append(recorded or _mixture(name, block, bank, noise_index, snr, rng))
            if len(rows) == _ROWS_PER_GROUP or index == len(chosen) - 1:
                table = _to_table(rows).replace_schema_metadata({_HASH_KEY: manifest_hash})
                writer = writer or pq.ParquetWriter(
                    target, table.schema, compression="none", use_dictionary=False
                )
                writer.write_table(table)
                rows = []
    finally:
        if writer:
            writer.close()
    return len(chosen)


def read_candidates(storage: Storage, sample_rate: int, shard: str) -> list[Candidate]:
    """What mixtures may be made of: the segments of one shard."""
    with storage.open(shard) as file:
        block = read_shard(file)
    return [
        Candidate(
            shard=shard,
            row=row,
            key=int(block.key_N[row]),
            clip_id=str(block.clip_id_N[row]),
            start=int(block.start_N[row]),
            speaker=str(block.speaker_N[row]),
            activity=activity(block.pcm_NT[row], sample_rate, int(block.active_floor_N[row])),
            valid_fraction=int(block.valid_samples_N[row]) / block.pcm_NT.shape[1],
        )
        for row in range(len(block))
    ]


def _read_chosen(storage: Storage, chosen: Iterable[Candidate]) -> dict[tuple[str, int], SegmentBlock]:
    """The chosen segments, each a block of one, by shard and row. One shard at a time lies in memory."""
    rows_of: defaultdict[str, set[int]] = defaultdict(set)
    for candidate in chosen:
        rows_of[candidate.shard].add(candidate.row)
    found = {}
    for shard, rows in rows_of.items():
        with storage.open(shard) as file:
            block = read_shard(file)
        found.update({(shard, row): block.take([row]) for row in rows})
    return found


def _mixture(
    name: str, block: SegmentBlock, bank: NoiseBank, noise_index: int, snr_db: float, rng: np.random.Generator
) -> Row:
    """Mix one segment as a whole with the noise and the SNR chosen for it; the rest is drawn."""
    draw, noise_T = _draw_audible(block, bank, noise_index, rng)
    return _mixed(name, block, bank, noise_T, replace(draw, snr_db=snr_db, noise_index=noise_index))


def _mixed(name: str, block: SegmentBlock, bank: NoiseBank, noise_T: np.ndarray, draw: MixtureDraw) -> Row:
    noisy_T, clean_T = mix(block.pcm_NT[0], noise_T, draw, active_floor=int(block.active_floor_N[0]))
    return {
        "id": name,
        "key": int(block.key_N[0]),
        "noisy": noisy_T,
        "clean": clean_T,
        "snr_db": draw.snr_db,
        "level_dbfs": draw.level_dbfs,
        "speaker": str(block.speaker_N[0]),
        "clip_id": str(block.clip_id_N[0]),
        "noise_id": bank.ids[draw.noise_index],
        "sample_rate": bank.sample_rate,
    }


def _as_recorded(name: str, block: SegmentBlock, bank: NoiseBank) -> Row | None:
    """A segment with the noise that was recorded with it, at the levels of both; None without (audible) ones."""
    own = bank.own_noise(str(block.clip_id_N[0]), int(block.start_N[0]))
    if own is None:
        return None
    num_samples = block.pcm_NT.shape[1]
    noise_T = np.zeros(num_samples, np.int16)
    recorded_T = bank.pcm(own[0])[own[1] : own[1] + num_samples]
    noise_T[: len(recorded_T)] = recorded_T
    draw = MixtureDraw(
        crop_start=0,
        num_samples=num_samples,
        valid_samples=int(block.valid_samples_N[0]),
        noise_index=own[0],
        noise_start=own[1],
        snr_db=0.0,
        level_dbfs=0.0,
        snr_over="active",
        sample_rate=bank.sample_rate,
    )
    frame = frame_length(bank.sample_rate)
    speech_energy_M, noise_energy_M = (frame_energies(x_T, frame) for x_T in (block.pcm_NT[0], noise_T))
    # At 0 dB and full scale, a gain is one over the level that it brings there.
    gain = gains(speech_energy_M, noise_energy_M, draw, int(block.active_floor_N[0]))
    if not (gain.speech_active and gain.noise_active):
        return None
    snr_db = 20 * math.log10(gain.noise / gain.speech)
    level_dbfs = -20 * math.log10(32768 * gain.speech)
    return _mixed(name, block, bank, noise_T, replace(draw, snr_db=snr_db, level_dbfs=level_dbfs))


def _draw_audible(
    block: SegmentBlock, bank: NoiseBank, noise_index: int, rng: np.random.Generator
) -> tuple[MixtureDraw, np.ndarray]:
    """Draw until the noise is not in a pause of its recording, or take the loudest of a few draws."""
    pcm_T = bank.pcm(noise_index)
    audible = _power(pcm_T) * 10 ** (-_PAUSE_DB / 10)
    best: tuple[float, MixtureDraw, np.ndarray] | None = None
    for _ in range(_MAX_DRAWS):
        draw = draw_mixture(
            rng,
            MixingConfig(crop_s=None),
            valid_samples=int(block.valid_samples_N[0]),
            sample_rate=bank.sample_rate,
            noise_lengths=np.array([len(pcm_T)]),
            segment_samples=block.pcm_NT.shape[1],
        )
        noise_T = bank.crop(noise_index, draw.noise_start, draw.num_samples)
        power = _power(noise_T)
        if best is None or power > best[0]:
            best = (power, draw, noise_T)
        if power >= audible:
            break
    assert best is not None
    return best[1], best[2]


def _choose_speech(
    candidates: Sequence[Candidate], bank: NoiseBank, num_mixtures: int, seed: int
) -> list[Candidate]:
    """Segments in turns over the speakers: those with much speech, or a speaker's best if there are none.

    Where these were all recorded with a noise of their own and are too few, those with less speech follow them.
    """
    by_speaker: defaultdict[str, list[Candidate]] = defaultdict(list)
    for item in candidates:
        by_speaker[item.speaker].append(item)
    if not by_speaker:
        raise CorpusError("a held-out split has no segment of speech: add speech or change the seed")

    def is_recorded(item: Candidate) -> bool:
        return bank.own_noise(item.clip_id, item.start) is not None

    good = {name: _good(items) for name, items in by_speaker.items()}
    chosen = _take_turns(good, num_mixtures, seed, once=is_recorded)
    if len(chosen) == num_mixtures:
        return chosen
    taken = set(chosen)
    others = {
        name: [item for item in items if item not in taken and is_recorded(item) and item.activity > 0]
        for name, items in by_speaker.items()
    }
    return chosen + _take_turns(others, num_mixtures - len(chosen), seed, once=is_recorded)


def _good(items: Sequence[Candidate]) -> list[Candidate]:
    good = [item for item in items if item.activity >= _MIN_ACTIVITY and item.valid_fraction >= _MIN_VALID]
    return good or [max(items, key=lambda item: item.activity * item.valid_fraction)]


def _by_recording(bank: NoiseBank) -> dict[str, list[int]]:
    by_recording: defaultdict[str, list[int]] = defaultdict(list)
    for index, recording in enumerate(bank.recordings):
        by_recording[recording].append(index)
    return by_recording


def _take_turns(
    groups: Mapping[str, Sequence[Item]],
    count: int,
    seed: int,
    once: Callable[[Item], bool] = lambda item: False,
) -> list[Item]:
    """`count` items, one of each group in turn; a group's items come again only when all were taken.

    Items of which `once` holds never come again, so that there may be fewer.
    """
    names = sorted(groups, key=lambda name: keyed_order(seed, name))

    def in_order(name: str) -> Iterator[Item]:
        order = np.argsort(philox(seed, 0, hash64(f"mixtures of {name}")).random_raw(len(groups[name])))
        items = [groups[name][index] for index in order]
        while items:
            yield from items
            items = [item for item in items if not once(item)]

    taken: list[Item] = []
    waiting = deque(in_order(name) for name in names)
    while waiting and len(taken) < count:
        group = waiting.popleft()
        if (item := next(group, None)) is not None:
            taken.append(item)
            waiting.append(group)
    return taken


def _balanced_snrs(snr_db: Sequence[float], count: int, seed: int) -> list[float]:
    """Each SNR equally often (to within one), in shuffled rounds: no speaker always gets the same one."""
    rng = np.random.Generator(philox(seed, 0, hash64("mixtures at each SNR")))
    rounds = [rng.permutation(len(snr_db)) for _ in range(-(-count // len(snr_db)))]
    return [float(snr_db[index]) for index in np.concatenate(rounds)[:count]]


def _power(pcm_T: np.ndarray) -> float:
    return float(frame_energies(pcm_T, 1 << 10).sum() / len(pcm_T))


def _to_table(rows: Sequence[Row]) -> pa.Table:
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    columns["key"] = pa.array(columns["key"], pa.uint64())
    for name in ("noisy", "clean"):
        columns[name] = pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(columns[name]))
    return pa.table(columns)
