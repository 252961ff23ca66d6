"""Reports: what jobs.evaluate writes is read; what is damaged is refused in a line; clips are chosen evenly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.evaluation.files import FORMAT, FORMAT_VERSION
from cluster.evaluation.listening import source as listening_source
from cluster.evaluation.listening.source import (
    ListeningError,
    ReportClip,
    choose_clips,
    open_source,
    read_clip,
    report_identity,
)
from cluster.evaluation.report import write_report
from cluster.evaluation.scores import CLEAN, NOISY
from tests.cluster.evaluation.listening.made_reports import BUNDLE_IDS, write_made_report
from tests.cluster.evaluation.made_scores import make_report
from ww_data import write_audio


def test_what_the_evaluation_writes_is_read(tmp_path: Path) -> None:
    write_report(make_report(rival_gain=0.2), tmp_path)
    source = open_source(tmp_path)
    assert source.systems == ("noisy", "<a>", "b")
    assert set(read_clip(source.clips[0], source.sample_rate)) == {"noisy", "<a>", "b", "clean"}


def test_both_sides_use_the_same_words() -> None:
    ours = listening_source.REPORT_FORMAT, listening_source.REPORT_FORMAT_VERSION
    assert ours == (FORMAT, FORMAT_VERSION)
    assert (listening_source.NOISY, listening_source.CLEAN) == (NOISY, CLEAN)


def test_identity_is_of_what_is_compared_not_of_how_much_is_shown(made_report: Path, tmp_path: Path) -> None:
    identity = open_source(made_report).identity
    assert identity == report_identity("abc123", {"corpus": "elsewhere"}, BUNDLE_IDS)
    fewer = write_made_report(tmp_path / "fewer", snrs_db=(0.0,))
    assert open_source(fewer).identity == identity
    other = write_made_report(tmp_path / "other", manifest_hash="def")
    assert open_source(other).identity != identity
    assert report_identity("abc123", {}, BUNDLE_IDS | {"two": "demucs-ffff"}) != identity


def spoil(folder: Path, **changes: object) -> None:
    path = folder / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "x"}, "expected format wave-wizard-evaluation, version 2"),
        ({"format_version": 1}, "no report of this version"),
        ({"examples": []}, "no examples to hear; python -m jobs.evaluate ... --examples 12"),
        ({"examples": [1]}, "damaged"),
        ({"systems": None}, "damaged"),
        ({"systems": [{"name": "noisy", "model": None}]}, "has the sounds clean, noisy, one, two; expected"),
    ],
)
def test_a_damaged_report_is_one_line(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    folder = write_made_report(tmp_path / "report")
    spoil(folder, **changes)
    with pytest.raises(ListeningError) as error:
        open_source(folder)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_what_is_no_report_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ListeningError, match="--report is a folder that"):
        open_source(tmp_path)
    for content in ('{"format"', "[]", "\0"):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(ListeningError, match=r"damaged|no report"):
            open_source(tmp_path)


def test_a_report_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    folder = write_made_report(tmp_path / "report")
    examples = json.loads((folder / "report.json").read_text())["examples"]
    examples[0]["audio"]["one"] = "../secret.wav"
    spoil(folder, examples=examples)
    with pytest.raises(ListeningError, match="lies outside"):
        open_source(folder)


def test_damaged_sounds_are_named(tmp_path: Path) -> None:
    folder = write_made_report(tmp_path / "report")
    clip = open_source(folder).clips[0]
    write_audio(clip.audio["one"], np.zeros(100), 16_000)
    with pytest.raises(ListeningError, match="differ in length"):
        read_clip(clip, 16_000)
    clip.audio["one"].write_bytes(b"no sound")
    with pytest.raises(ListeningError, match="0-one"):
        read_clip(clip, 16_000)
    clip.audio["one"].unlink()
    with pytest.raises(ListeningError, match="0-one"):
        read_clip(clip, 16_000)


@given(
    snrs_db=st.lists(st.sampled_from([-5.0, 0.0, 5.0, 10.0]), min_size=1, max_size=40),
    wanted=st.integers(1, 20),
    seed=st.integers(0, 3),
)
def test_clips_come_evenly_from_all_snrs(snrs_db: list[float], wanted: int, seed: int) -> None:
    clips = [
        ReportClip(mixture_id=f"{number}", snr_db=snr_db, audio={}) for number, snr_db in enumerate(snrs_db)
    ]
    chosen = choose_clips(clips, wanted, seed)
    assert len({clip.mixture_id for clip in chosen}) == len(chosen) == min(wanted, len(clips))
    assert chosen == choose_clips(clips, wanted, seed)
    there, taken = Counter(snrs_db), Counter(clip.snr_db for clip in chosen)
    most = max(taken.values())
    for snr_db, num in there.items():
        assert taken[snr_db] >= min(most - 1, num), "another SNR has more, and there were clips left"


def test_the_seed_chooses() -> None:
    clips = [ReportClip(mixture_id=f"{number}", snr_db=0.0, audio={}) for number in range(30)]
    choices = {tuple(clip.mixture_id for clip in choose_clips(clips, 5, seed)) for seed in range(5)}
    assert len(choices) == 5
