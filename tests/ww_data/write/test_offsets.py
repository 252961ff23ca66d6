"""Offsets and what lies below hearing count in no level: the SNR of a mixture is the one that is heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfiltfilt

from tests.ww_data.made_sounds import RATE, hiss, syllables
from ww_data import Corpus, open_corpus, read_shard, scan_corpus, write_corpus
from ww_data.dsp import high_passed
from ww_data.manifest import Role
from ww_data.scan.files import Recording
from ww_data.scan.inspection import inspect


def rumble(seconds: float, hz: float = 4.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def write(path: Path, samples_T: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples_T, RATE, subtype="FLOAT")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Speech with an offset, noise with a larger one or with rumble, a room with an offset in its response."""
    folder = tmp_path_factory.mktemp("offsets")
    for speaker in range(4):
        write(folder / "speech" / f"s{speaker}" / "0.wav", 0.1 * syllables(speaker, 4.0) - 0.1)
    for n in range(4):
        write(folder / "noise" / f"n{n}.wav", 0.1 * hiss(n, 4.0) + (rumble(4.0, 15.0) if n % 2 else 0.2))
    response_T = 0.01 * hiss(9, 0.3)
    response_T[10] = 0.5
    for room in range(3):
        write(folder / "rir" / f"r{room}" / "0.wav", response_T * (1 + 0.1 * room) + 0.02)
    folders = (folder / "speech", folder / "noise")
    manifest = scan_corpus(*folders, rir_dirs=folder / "rir", val_fraction=0.25, test_fraction=0.25)
    settings = {"segment_s": 1.0, "num_val_mixtures": 4, "num_test_mixtures": 10}
    return write_corpus(manifest, folder / "corpus", **settings)


def test_the_snr_is_the_one_that_is_heard(corpus: Corpus) -> None:
    sections = butter(4, 60, "highpass", fs=RATE, output="sos")
    for split in ("val", "test"):
        mixtures = corpus.mixtures(split)
        for index, snr_db in enumerate(mixtures.snrs_db):
            noisy_T, clean_T = mixtures[index]
            heard = [
                np.square(sosfiltfilt(sections, x_T.astype(float))).sum()
                for x_T in (clean_T, noisy_T - clean_T)
            ]
            # The label is that of the active frames.
            active_db = 10 * np.log10(heard[0] / heard[1])
            assert snr_db - 6 < active_db < snr_db + 1


def test_nothing_of_an_offset_is_left_and_no_peak_is_cut(corpus: Corpus) -> None:
    for split in ("train", "val", "test"):
        bank = corpus.noise_bank(split)
        for index in range(len(bank)):
            assert abs(bank.pcm(index).mean()) < 5
        for shard in corpus.shards(split):
            pcm_NT = read_shard(corpus.storage.path(shard.name)).pcm_NT
            assert np.abs(pcm_NT.mean(axis=1)).max() < 200  # of syllables, a segment of 1 s has some
            assert np.abs(pcm_NT).max() < 32_767
        rooms = corpus.rooms(split)
        assert rooms is not None
        assert abs(np.median(rooms.pcm(0))) < 1e-6


def test_a_loud_recording_with_an_offset_keeps_its_peaks(tmp_path: Path) -> None:
    voice_T = syllables(1, 4.0)
    voice_T = np.where(voice_T > 0, voice_T, 3 * voice_T)  # peaks of -1.5 around its mean
    for speaker in range(3):
        write(tmp_path / "speech" / f"s{speaker}" / "0.wav", (1 - 0.1 * speaker) * (0.6 * voice_T) + 0.25)
        write(tmp_path / "noise" / f"n{speaker}.wav", hiss(speaker, 4.0))
    manifest = scan_corpus(tmp_path / "speech", tmp_path / "noise", val_fraction=0.3, test_fraction=0.3)
    corpus = write_corpus(
        manifest, tmp_path / "corpus", segment_s=1.0, num_val_mixtures=1, num_test_mixtures=1
    )
    for split in ("train", "val", "test"):
        for shard in corpus.shards(split):
            assert (
                np.abs(read_shard(open_corpus(corpus.storage.uri).storage.path(shard.name)).pcm_NT).max()
                < 32_767
            )


def test_what_is_heard_stays_as_it_is_to_both_ends() -> None:
    t = np.arange(RATE) / RATE
    tone_T = 0.2 * np.cos(2 * np.pi * 300 * t)
    np.testing.assert_allclose(high_passed(tone_T + 0.4, RATE), tone_T, atol=2e-3)
    for num_samples in (1, 2, 100):
        assert high_passed(np.ones(num_samples), RATE).shape == (num_samples,)


@pytest.mark.parametrize(
    ("hz", "gain_db"), [(0.5, -75), (5, -75), (12, -75), (15, -75), (25, 0), (30, 0), (100, 0)]
)
@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_what_is_kept_and_what_goes(hz: float, gain_db: float, rate: int) -> None:
    tone_T = np.sin(2 * np.pi * hz * np.arange(3 * rate) / rate)
    came, left = (np.abs(x_T[rate:-rate]).max() for x_T in (tone_T, high_passed(tone_T, rate)))
    assert (20 * np.log10(left / came) < gain_db) if gain_db else (0.99 < left / came < 1.01)


@pytest.mark.parametrize("role", ["speech", "noise"])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize("hz", [0.3, 5.0, 12.0, 15.0])
def test_what_nobody_hears_is_left_out(role: Role, subtype: str, hz: float, tmp_path: Path) -> None:
    path = str(tmp_path / "x.wav")
    for num_channels in (1, 2):
        for quiet, is_left_out in ((0.0, True), (5e-3, False)):
            sound_T = rumble(20.0, hz) + 0.2 + quiet * hiss(1, 20.0)
            soundfile.write(path, np.stack([sound_T] * num_channels, axis=1), RATE, subtype=subtype)
            reason = inspect(Recording(path=path, name="x.wav", role=role)).skip_reason
            assert reason.startswith("nothing above 20 Hz is in it (") == is_left_out
            assert bool(reason) == is_left_out
    soundfile.write(path, rumble(3.0, hz) + 0.2, RATE, subtype=subtype)
    assert inspect(Recording(path=path, name="x.wav", role="rir")).skip_reason == ""
