"""Scanning pairs of clean and noisy files: the noise is their difference and goes with its speech."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.ww_data.made_sounds import RATE, hiss, syllables
from tests.ww_data.scan.watched_scans import counting, splits_of
from ww_data import scan_corpus, write_audio


def _write_pairs(root: Path, name: str, speakers: Sequence[str], seed: int) -> None:
    for kind in ("clean", "noisy"):
        (root / f"{kind}_{name}_wav").mkdir(parents=True)
    for n, speaker in enumerate(speakers):
        for take in range(2):
            clean = np.round(syllables(seed + 10 * n + take, 1.0) * 16000) / 32768
            noise = np.round(hiss(seed + 10 * n + take, 1.0) * 16000) / 32768
            write_audio(root / f"clean_{name}_wav" / f"{speaker}_00{take}.wav", clean, RATE)
            write_audio(root / f"noisy_{name}_wav" / f"{speaker}_00{take}.wav", clean + noise, RATE)


def test_the_noise_of_pairs_goes_with_its_speech(tmp_path: Path) -> None:
    """As VoiceBank-DEMAND ships them: the test set is as given, val is dealt from the train speakers."""
    _write_pairs(tmp_path, "trainset_28spk", ["p226", "p227", "p228", "p230"], 0)
    _write_pairs(tmp_path, "testset", ["p232", "p257"], 500)
    clean, noisy = tmp_path / "clean_trainset_28spk_wav", tmp_path / "noisy_trainset_28spk_wav"
    write_audio(noisy / "p226_000.wav", syllables(7, 1.5), RATE)  # longer than its clean file
    (noisy / "p227_000.wav").unlink()
    (clean / "p228_000.wav").unlink()
    manifest = scan_corpus(corpus_dirs=tmp_path)
    reasons = {clip.id: clip.skip_reason for clip in manifest.skipped}
    misfit = "does not fit its clean file (24000 samples, the clean file has 16000)"
    assert reasons == {
        "noise/clean_trainset_28spk_wav/p226_000.wav": misfit,
        "speech/clean_trainset_28spk_wav/p226_000.wav": f"its noisy file cannot be used ({misfit})",
        "speech/clean_trainset_28spk_wav/p227_000.wav": "has no noisy file of its name",
        "noise/noisy_trainset_28spk_wav/p228_000.wav": "has no clean file of its name",
    }
    used = {clip.id: clip for clip in manifest.clips if clip.split}
    assert {clip.speaker for clip in manifest.used("speech", "test")} == {"p232", "p257"}
    assert len(manifest.used("speech", "val")) in (1, 2)
    for name, clip in used.items():
        if clip.role == "noise":
            assert clip.minus.endswith(clip.id.removeprefix("noise/"))
            assert clip.split == used[f"speech/{name.removeprefix('noise/')}"].split
    noise = used["noise/clean_testset_wav/p232_000.wav"]
    expected = np.mean((np.round(hiss(500, 1.0) * 16000) / 32768) ** 2)
    assert noise.level_dbfs == pytest.approx(10 * np.log10(expected), abs=0.01)


@pytest.mark.parametrize("fault", ["quieter", "inverted", "later", "of another recording"])
def test_a_difference_that_holds_the_clean_sound_is_no_noise(tmp_path: Path, fault: str) -> None:
    """Level, time and content of both sides: what their rates and lengths do not tell."""
    _write_pairs(tmp_path, "trainset", ["p1", "p2", "p3"], 0)
    clean = np.round(syllables(0, 1.0) * 16000) / 32768
    noise = np.round(hiss(0, 1.0) * 16000) / 32768
    noisy = {
        "quieter": 0.5 * (clean + noise),
        "inverted": -(clean + noise),
        "later": np.roll(clean, RATE // 20) + noise,
        "of another recording": np.round(syllables(99, 1.0) * 16000) / 32768 + noise,
    }[fault]
    write_audio(tmp_path / "noisy_trainset_wav" / "p1_000.wav", noisy, RATE)
    skipped = {clip.id: clip.skip_reason for clip in scan_corpus(corpus_dirs=tmp_path).skipped}
    assert set(skipped) == {f"{role}/clean_trainset_wav/p1_000.wav" for role in ("noise", "speech")}
    assert "of their difference is the clean sound" in skipped["noise/clean_trainset_wav/p1_000.wav"]


def test_a_changed_clean_side_is_noticed(tmp_path: Path) -> None:
    _write_pairs(tmp_path, "trainset", ["p1", "p2", "p3", "p4"], 0)
    before = scan_corpus(corpus_dirs=tmp_path)
    path = tmp_path / "clean_trainset_wav" / "p1_000.wav"
    write_audio(path, 0.5 * (syllables(0, 1.0) + 0.2 * hiss(77, 1.0)), RATE)
    os.utime(path, ns=(10**18, 10**18))
    read: list[str] = []
    assert scan_corpus(corpus_dirs=tmp_path, known=before, executor=counting(read)) == scan_corpus(
        corpus_dirs=tmp_path
    )
    assert sorted(read) == [f"{role}/clean_trainset_wav/p1_000.wav" for role in ("noise", "speech")]


def test_one_clean_file_may_be_in_several_pairs(tmp_path: Path) -> None:
    """Each sentence at three SNRs, and a test set of the DNS kind, whose file names tell no speaker."""
    for name_of in ("{speaker}_{take}_{snr}", "x_fileid_{number}"):
        root = tmp_path / name_of[0]
        for speaker in range(6):
            for take in range(2):
                clean = np.round(syllables(100 * speaker + take, 1.0) * 16000) / 32768
                for snr in range(3):
                    number = 100 * speaker + 10 * take + snr
                    name = name_of.format(speaker=f"p{speaker}", take=take, snr=snr, number=number)
                    noise = np.round(hiss(number, 1.0) * 16000) / 32768
                    for folder, side in (("clean", clean), ("noisy", clean + noise)):
                        (root / folder).mkdir(parents=True, exist_ok=True)
                        write_audio(root / folder / f"{name}.wav", side, RATE)
        manifest = scan_corpus(corpus_dirs=root)
        manifest.check()
        assert not manifest.skipped
        splits = splits_of(manifest)
        assert len(splits) == 2 * 36
        assert all(splits[f"speech/{name[6:]}"] == split for name, split in splits.items() if name[0] == "n")
        assert scan_corpus(corpus_dirs=root, known=manifest) == manifest


def test_one_noise_may_be_in_several_pairs(tmp_path: Path) -> None:
    """Of each noise one copy is used, in such a way that no split goes without."""
    for speaker in range(9):
        for number in range(3):
            clean = np.round(syllables(10 * speaker + number, 1.0) * 16000) / 32768
            noise = np.round(hiss(number, 1.0) * 16000) / 32768
            for folder, side in (("clean", clean), ("noisy", clean + noise)):
                (tmp_path / folder).mkdir(exist_ok=True)
                write_audio(tmp_path / folder / f"p{speaker}_{number}.wav", side, RATE)
    manifest = scan_corpus(corpus_dirs=tmp_path)
    manifest.check()
    assert [len(manifest.used("noise", split)) for split in ("train", "val", "test")] == [1, 1, 1]
    assert len([clip for clip in manifest.clips if clip.role == "speech" and clip.split]) == 27
    assert scan_corpus(corpus_dirs=tmp_path, known=manifest) == manifest
