"""A manifest comes back as it was written, is one table for pandas, and refuses what would leak between splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.ww_data.made_sounds import write_folders
from ww_data import Clip, CorpusError, Manifest, Storage, scan_corpus


def test_a_manifest_comes_back_and_pandas_reads_it(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    (speech / "speaker0" / "empty.wav").touch()
    told: list[tuple[int, int, str]] = []
    manifest = scan_corpus(speech, noise, progress=lambda *step: told.append(step))
    assert [step[:2] for step in told] == [(n + 1, 13) for n in range(13)]
    (tmp_path / "manifest.parquet").write_bytes(manifest.to_parquet())
    again = Manifest.read(tmp_path / "manifest.parquet")
    assert again == manifest
    assert again.hash == manifest.hash
    frame = pd.read_parquet(tmp_path / "manifest.parquet")
    assert list(frame[frame.skip_reason != ""].id) == ["speech/speaker0/empty.wav"]


def test_a_damaged_manifest_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    for damage in (b"", b"nonsense"):
        path.write_bytes(damage)
        with pytest.raises(CorpusError, match="not a readable manifest") as caught:
            Manifest.read(path)
        assert "\n" not in str(caught.value)
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(CorpusError, match="not a readable manifest"):
        Manifest.read(path)


def _clip(name: str, split: str, **fields: object) -> Clip:
    defaults: dict = {
        "speaker": name,
        "content_hash": name,
        "role": "speech",
        "seconds": 60.0,
        "level_dbfs": -20.0,
    }
    return Clip(id=f"speech/{name}", path=f"/data/{name}", split=split, **(defaults | fields))


def test_where_files_lie_does_not_change_the_hash() -> None:
    clip = _clip("a", "train")
    moved = replace(
        clip, path="s3://b/a", shard="speech/train/x.parquet", size_bytes=7, modified_ns=9, layout="folder"
    )
    assert Manifest(clips=(moved,)).hash == Manifest(clips=(clip,)).hash
    for change in ({"content_hash": "x"}, {"split": "val"}, {"speaker": "x"}, {"id": "speech/x"}):
        assert Manifest(clips=(replace(clip, **change),)).hash != Manifest(clips=(clip,)).hash


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (
            _clip("b", "test", content_hash="a"),
            r"the same sound is in two splits: speech/a in .* and speech/b in test",
        ),
        (_clip("b", "val", speaker="a"), "speaker a is in two splits: speech/a in train and speech/b in val"),
        (_clip("b", "holdout"), "split 'holdout': expected"),
    ],
)
def test_a_hand_made_manifest_that_leaks_is_refused(clip: Clip, message: str) -> None:
    kept = (_clip("a", "train"), _clip("a2", "train", speaker="a", content_hash="a"), _clip("c", "test"))
    Manifest(clips=kept).check()
    Manifest(clips=(*kept, replace(clip, split="", skip_reason="no matter"))).check()
    with pytest.raises(CorpusError, match=message) as caught:
        Manifest(clips=(*kept, clip)).check()
    assert "\n" not in str(caught.value)


def test_a_speaker_and_a_recording_may_share_a_name() -> None:
    clip = _clip("a", "train")
    noise = replace(clip, id="noise/a", role="noise", split="test", content_hash="other")
    Manifest(clips=(clip, noise)).check()


def test_a_summary_says_how_much_there_is_and_what_is_left_out() -> None:
    clips = [_clip(f"{n}", "train", seconds=3600.0, level_dbfs=-20.0 - n) for n in range(11)]
    left_out = [_clip(f"x{n}", "", skip_reason=f"too short (0.{n} s)") for n in range(3)]
    text = Manifest(clips=(*clips, *left_out)).summary()
    assert "11.0 h" in text
    assert "11 speakers" in text
    assert "-29 to -21 dBFS" in text
    assert "left out 3 x too short, such as speech/x0" in text


def test_a_manifest_is_read_from_any_storage(tmp_path: Path) -> None:
    manifest = Manifest(clips=(_clip("ä ☃", "train"),), seed=7)
    (tmp_path / "manifest.parquet").write_bytes(manifest.to_parquet())
    with Storage(tmp_path).open("manifest.parquet") as source:
        assert Manifest.read(source) == manifest
