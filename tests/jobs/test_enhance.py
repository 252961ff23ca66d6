"""`python -m jobs.enhance`: files and folders in, the same files enhanced out, inputs untouched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from cluster.enhancement import enhance_audio
from tests.jobs.conftest import Done
from tests.ww_data.audio.made_files import by_ffmpeg, by_libsndfile, sound, with_bytes, with_size
from ww_data.audio import open_audio, read_audio
from ww_models import load_bundle


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "in"
    (folder / "a" / "b").mkdir(parents=True)
    for name, sample_rate, num_channels, subtype in (
        ("one.wav", 16_000, 1, "PCM_16"),
        ("a/two.FLAC", 44_100, 2, "PCM_24"),
        ("a/b/three.ogg", 22_050, 1, "VORBIS"),
        ("a/b/four.mp3", 48_000, 1, None),
    ):
        sf.write(folder / name, 0.1 * rng.standard_normal((4000, num_channels)), sample_rate, subtype=subtype)
    return folder


def test_a_folder_keeps_its_shape(
    run_job: Callable[..., Done], recordings: Path, bundle: Path, tmp_path: Path
) -> None:
    out = recordings / "enhanced"  # inside the input: a second run must not enhance its own results
    for _ in range(2):
        assert run_job("enhance", recordings, "--bundle", bundle, "--out", out).code == 0
        written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
        assert written == ["a/b/four.wav", "a/b/three.ogg", "a/two.FLAC", "one.wav"]
    for name in written:
        source = next(path for path in recordings.rglob(f"{Path(name).stem}.*") if out not in path.parents)
        before, after = sf.info(source), sf.info(out / name)
        for what in ("samplerate", "channels", "frames"):
            assert getattr(after, what) == getattr(before, what)
    assert sf.info(out / "a/two.FLAC").subtype == "PCM_24"


def test_a_recording_alone_is_enough(
    run_job: Callable[..., Done], recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_job("enhance", recordings / "one.wav")
    assert done.code == 0
    assert "comes with Wave Wizard" in done.out
    assert sf.info(tmp_path / "enhanced" / "one.wav").frames == 4000


def test_what_is_taken_away_and_the_result_are_the_input(
    run_job: Callable[..., Done], recordings: Path, bundle: Path, tmp_path: Path
) -> None:
    out, noise = tmp_path / "out", tmp_path / "noise"
    done = run_job("enhance", recordings, "--bundle", bundle, "--out", out, "--keep-noise", noise)
    assert done.code == 0
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(noise).as_posix() for path in noise.rglob("*") if path.is_file())
    for name, steps in (("one.wav", 2**15), ("a/two.FLAC", 2**23)):
        (heard, rate), (left, _), (taken, _) = (sf.read(folder / name) for folder in (recordings, out, noise))
        assert heard.shape == left.shape == taken.shape
        assert rate == sf.info(noise / name).samplerate
        np.testing.assert_allclose(left + taken, heard, atol=2 / steps)
        assert np.abs(taken).max() > 0.01
    same = run_job("enhance", recordings / "one.wav", "--bundle", bundle, "--out", out, "--keep-noise", out)
    assert "would both become" in same.error


@pytest.mark.parametrize(("most_db", "share"), [(0, 0.0), (20, 0.9), (6.0206, 0.5)])
def test_at_most_so_much_is_taken_away(
    run_job: Callable[..., Done], recordings: Path, bundle: Path, tmp_path: Path, most_db: float, share: float
) -> None:
    ways = {"by": ("--max-attenuation", most_db), "share": ("--strength", share)}
    heard = []
    for name, way in ways.items():
        assert (
            run_job(
                "enhance", recordings / "one.wav", "--bundle", bundle, "--out", tmp_path / name, *way
            ).code
            == 0
        )
        heard.append(sf.read(tmp_path / name / "one.wav")[0])
    np.testing.assert_allclose(*heard, atol=2**-14)
    both = run_job("enhance", recordings / "one.wav", "--out", tmp_path, *ways["by"], *ways["share"])
    assert "give either --strength or --max-attenuation" in both.error


def test_the_result_is_what_the_model_makes(
    run_job: Callable[..., Done], recordings: Path, bundle: Path, tmp_path: Path
) -> None:
    source = recordings / "a/two.FLAC"
    run_job("enhance", source, "--bundle", bundle, "--out", tmp_path / "out", "--strength", 0.5)
    samples_TC, sample_rate = sf.read(source, dtype="float32")
    expected_TC = enhance_audio(load_bundle(bundle), samples_TC, sample_rate, 0.5)
    np.testing.assert_allclose(sf.read(tmp_path / "out/two.FLAC")[0], expected_TC.clip(-1, 1), atol=1e-5)


def test_all_of_the_sound_comes_out(
    run_job: Callable[..., Done], recordings: Path, bundle: Path, tmp_path: Path
) -> None:
    joined, surround = (
        by_libsndfile("MP3", sound(0.5)) * 3,
        by_libsndfile("WAVEX", sound(0.5, num_channels=4)),
    )
    files = {
        "joined.mp3": joined,
        "open.wav": with_size(by_libsndfile("WAV", sound(0.5)), b"data", bytes(4)),
        "phone.m4a": by_ffmpeg("ipod", "aac", sound(1.0, 44_100, 2), 44_100),
        "browser.webm": by_ffmpeg("webm", "libopus", sound(1.0, 48_000), 48_000),
        "browser_sound.weba": by_ffmpeg("webm", "libopus", sound(1.0, 48_000), 48_000),
        "surround.wav": with_bytes(surround, 40, (0x107).to_bytes(4, "little")),
    }
    (tmp_path / "new").mkdir()
    for name, content in files.items():
        (tmp_path / "new" / name).write_bytes(content)
    assert run_job("enhance", tmp_path / "new", "--bundle", bundle, "--out", tmp_path / "out").code == 0
    for name in files:
        source, result = tmp_path / "new" / name, (tmp_path / "out" / name).with_suffix(".wav")
        samples_TC, sample_rate = read_audio(source)
        enhanced_TC, rate_out = read_audio(result)
        assert (enhanced_TC.shape, rate_out) == (samples_TC.shape, sample_rate)
        assert len(samples_TC) >= 0.5 * sample_rate
    with open_audio(tmp_path / "out" / "surround.wav") as opened:
        assert opened.channel_mask == 0x107


def test_a_bad_file_is_named_and_the_others_are_done(
    run_job: Callable[..., Done], recordings: Path, bundle: Path, tmp_path: Path
) -> None:
    (recordings / "broken.wav").write_bytes(b"RIFF")
    (recordings / "phone.m4a").write_bytes(b"ftyp")
    (recordings / "loop.wav").symlink_to("loop.wav")
    done = run_job("enhance", recordings, "--bundle", bundle, "--out", tmp_path / "out")
    assert done.code == 2
    assert "broken.wav" in done.err
    assert "phone.m4a" in done.err
    assert "loop.wav" in done.err
    lines = [line for line in done.err.splitlines() if line.startswith("skipped ")]
    assert [line.count(str(recordings)) for line in lines] == [1, 1, 1]
    assert done.error.startswith("error: 3 of 7 recordings")
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 4


def test_what_is_out_of_bounds_is_refused_and_what_is_cut_off_is_said(
    run_job: Callable[..., Done], bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    sound_TC = sound(0.5) / np.abs(sound(0.5)).max()
    for name, peak in (("integers.wav", 32_768), ("loud.wav", 4.0), ("fits.wav", 1.0)):
        sf.write(folder / name, peak * sound_TC, 16_000, subtype="FLOAT")
    out = tmp_path / "out"
    done = run_job("enhance", folder, "--bundle", bundle, "--out", out, "--strength", 0)
    assert done.code == 2
    wrong = folder / "integers.wav"
    assert f"skipped {wrong}: holds samples beyond 10000 times full scale: scale it to +-1\n" in done.err
    assert not (out / "integers.wav").exists()
    (note,) = [line for line in done.out.splitlines() if line.startswith("note: ")]
    assert note.startswith(f"note: {folder / 'loud.wav'}: the result peaks 12.0 dB above full scale")
    assert np.abs(sf.read(out / "loud.wav")[0]).max() == pytest.approx(1, abs=1e-4)


def test_inputs_are_never_overwritten(run_job: Callable[..., Done], recordings: Path, bundle: Path) -> None:
    before = {path: path.read_bytes() for path in recordings.rglob("*.*")}
    (recordings.parent / "link").symlink_to(recordings)
    for inputs, out in (
        ([recordings], recordings),
        ([recordings / "one.wav"], recordings),
        ([recordings], recordings.parent / "link"),
        ([recordings / "a" / "b"], recordings / "a" / "b"),
    ):
        assert "would be overwritten" in run_job("enhance", *inputs, "--bundle", bundle, "--out", out).error
    assert {path: path.read_bytes() for path in recordings.rglob("*.*")} == before


def test_results_that_would_replace_each_other_are_refused(
    run_job: Callable[..., Done], recordings: Path, bundle: Path, tmp_path: Path
) -> None:
    (recordings / "one.mp3").write_bytes((recordings / "a/b/four.mp3").read_bytes())
    done = run_job("enhance", recordings, "--bundle", bundle, "--out", tmp_path / "out")
    assert "would both become" in done.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.wav", "--bundle", "{bundle}"], "missing.wav does not exist"),
        (["{empty}", "--bundle", "{bundle}"], "no recordings in"),
        (["{in}", "--bundle", "{empty}"], "bundle"),
        (["{in}", "--bundle", "{bundle}", "--strength", "2"], "--strength"),
        (["{in}", "--bundle", "{bundle}", "--max-attenuation", "-3"], "at least 0"),
    ],
)
def test_wrong_use_is_one_line(
    run_job: Callable[..., Done],
    recordings: Path,
    bundle: Path,
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"in": recordings, "bundle": bundle, "empty": tmp_path / "empty"}
    filled = [argument.format(**places) for argument in arguments]
    done = run_job("enhance", *filled, "--out", tmp_path / "out")
    assert done.code == 2
    assert words in done.error
    assert done.err == f"{done.error}\n"
