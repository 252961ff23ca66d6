"""Seconds of audio that one core mixes in a second, in this process: plain, with the default chain of augmentations,
and with each effect; beside them the augmentations of `denoiser`, in the same run.

    python benchmarks/mixing.py [--oracles DIR] [--rounds N] [--effects] [--check]

Sounds are made up: segments of 4 s at 16 kHz, of which crops of 1.5 s are mixed in blocks of 64. All contestants take
turns, round by round, on one thread; figures are medians over the rounds, a ratio is the median of the rounds' ratios.
What is measured is the processor time of the thread: other programs disturb it little, but they take caches away.
denoiser is not among our dependencies. To compare with it, install it apart:

    pip install --no-deps --target DIR denoiser==0.1.5 julius
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from ww_data import AugmentConfig, MixingConfig, NoiseBank, RoomBank, SegmentBlock, mix_segments, segment_key
from ww_data.corpus.banks import BankRow
from ww_data.mixing.augment import EFFECTS

RATE, SEGMENT_S, CROP_S, BLOCK = 16_000, 4.0, 1.5, 64
SHIFT_SAMPLES = 8000  # of denoiser's Shift, its default
PLAIN, DEFAULT, PEER = "ours, plain", "ours, default chain", "denoiser: Remix, BandMask, Shift, RevEcho"
# Seconds of audio per CPU second that a core is to reach, and times as many as the peer.
BARS = {PLAIN: 10_000, DEFAULT: 1_500}
RATIO_BAR = 10

# Does its work once and returns how many seconds of audio came of it.
Contestant = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="measured rounds; 10 unless given")
    parser.add_argument("--seconds", type=float, default=0.5, help="CPU time of each contestant in a round")
    parser.add_argument("--oracles", metavar="DIR", help="where denoiser was installed, if not beside torch")
    parser.add_argument("--effects", action="store_true", help="measure each effect by itself as well")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a bar is missed")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    if arguments.oracles:
        sys.path.append(arguments.oracles)
    with tempfile.TemporaryDirectory() as folder:
        contestants = our_contestants(Path(folder), arguments.effects)
        try:
            contestants[PEER] = denoiser_chain()
        except ImportError:
            print("denoiser is not installed, so ours is measured alone; --help says how to install it")
        speeds = measure(contestants, arguments.rounds, arguments.seconds)
    missed = report(speeds)
    if arguments.check and missed:
        sys.exit(1)


def our_contestants(folder: Path, effects: bool) -> dict[str, Contestant]:
    """Blocks of segments, mixed in one epoch after the other."""
    rng = np.random.default_rng(0)
    block, bank, rooms = made_up_block(rng), made_up_noise(rng, folder), made_up_rooms(rng, folder)

    def contestant(augment: AugmentConfig) -> Contestant:
        config, epoch = MixingConfig(crop_s=CROP_S, augment=augment), 0

        def mix_block() -> float:
            nonlocal epoch
            epoch += 1
            return mix_segments(block, epoch, bank, config, 0, rooms).clean_NT.size / RATE

        return mix_block

    found = {PLAIN: contestant(AugmentConfig()), DEFAULT: contestant(AugmentConfig(chain="default"))}
    if effects:
        needed = {"third_noise": {"second_noise": 1.0}}
        for name in EFFECTS:
            found[f"ours, {name} on all"] = contestant(AugmentConfig(**{name: 1.0} | needed.get(name, {})))
    return found


def made_up_block(rng: np.random.Generator) -> SegmentBlock:
    """Segments that are speech for half of the time."""
    num_samples = round(SEGMENT_S * RATE)
    syllables_T = np.repeat(rng.random(num_samples // 3200) < 0.5, 3200)
    pcm_NT = (2000 * syllables_T * rng.standard_normal((BLOCK, num_samples))).astype(np.int16)
    return SegmentBlock(
        pcm_NT=pcm_NT,
        valid_samples_N=np.full(BLOCK, num_samples),
        key_N=np.array([segment_key("train", f"speech/{row}", 0) for row in range(BLOCK)], np.uint64),
        start_N=np.zeros(BLOCK, np.int64),
        active_floor_N=np.full(BLOCK, 10**6),
        clip_id_N=np.array([f"speech/{row}" for row in range(BLOCK)], object),
        speaker_N=np.full(BLOCK, "made up", object),
    )


def made_up_noise(rng: np.random.Generator, folder: Path) -> NoiseBank:
    """200 recordings of 10 s: more than fits into a cache."""
    rows = (
        BankRow(f"noise/{n}", f"{n}", 0, (1000 * rng.standard_normal(10 * RATE)).astype(np.int16))
        for n in range(200)
    )
    NoiseBank.write(folder / "noise.arrow", rows, RATE)
    return NoiseBank(folder / "noise.arrow")


def made_up_rooms(rng: np.random.Generator, folder: Path) -> RoomBank:
    """1,000 rooms that decay by 60 dB within 0.2 to 0.8 s: many times more than a process keeps spectra of."""
    rows = []
    for n, rt60_s in enumerate(np.linspace(0.2, 0.8, 1000)):
        t = np.arange(round(rt60_s * RATE)) / RATE
        tail = 0.1 * rng.standard_normal(len(t)) * 10 ** (-3 * t / rt60_s)
        rows.append(BankRow(f"rir/{n}", f"{n}", 0, np.concatenate([[1.0], tail]).astype(np.float32)))
    RoomBank.write(folder / "rooms.arrow", rows, RATE)
    return RoomBank(folder / "rooms.arrow")


def denoiser_chain() -> Contestant:
    """Its augmentations with their defaults, on batches of as many crops. ImportError if it is not installed."""
    import torch
    from denoiser import dsp
    from denoiser.augment import BandMask, Remix, RevEcho, Shift

    low_pass_filters = dsp.LowPassFilters
    # Its filters became float64 when NumPy's scalars began to decide about that.
    dsp.LowPassFilters = lambda cutoffs: low_pass_filters([float(cutoff) for cutoff in cutoffs])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    # In the order of its solver, with the defaults of its classes: echoes on every other batch.
    chain = torch.nn.Sequential(Remix(), BandMask(), Shift(SHIFT_SAMPLES, same=True), RevEcho()).train()
    sources = 0.1 * torch.randn(2, BLOCK, 1, round(CROP_S * RATE) + SHIFT_SAMPLES)  # noise, clean

    def augment() -> float:
        with torch.no_grad():
            noise, clean = chain(sources)
        return (noise + clean).numel() / RATE

    return augment


def measure(contestants: dict[str, Contestant], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of audio per CPU second of each contestant in each round. The first round is left out: cold caches."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, work in contestants.items():
            audio_s, start = 0.0, time.thread_time()
            # Half of denoiser's batches get echoes, which take nearly all of its time: it needs several.
            target_s = seconds * (8 if name == PEER else 1)
            while (taken_s := time.thread_time() - start) < target_s:
                audio_s += work()
            if round_:
                speeds[name].append(audio_s / taken_s)
    return speeds


def report(speeds: dict[str, list[float]]) -> bool:
    """Prints the table and the bars; whether one was missed."""
    print(f"{'seconds of audio per CPU second of one core':48} {'median':>8} {'lowest':>8} {'highest':>8}")
    for name, values in speeds.items():
        print(f"{name:48} {median(values):8.0f} {min(values):8.0f} {max(values):8.0f}")
    results = [(f"{name}: at least {bar} s per s", median(speeds[name]), bar) for name, bar in BARS.items()]
    if PEER in speeds:
        for name in BARS:
            ratio = median(ours / peer for ours, peer in zip(speeds[name], speeds[PEER], strict=True))
            results.append((f"{name}: at least {RATIO_BAR} x denoiser's chain", ratio, RATIO_BAR))
    for what, value, bar in results:
        print(f"{'reached' if value >= bar else 'MISSED':8} {what}: {value:.0f}")
    return any(value < bar for _, value, bar in results)


if __name__ == "__main__":
    main()
