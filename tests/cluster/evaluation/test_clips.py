"""What is scored is found: mixtures, pairs of files, files of other programs; or refused in a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.evaluation.clips import (
    EvaluationError,
    choose_mixtures,
    corpus_clips,
    files_for,
    noise_kind,
    noisy_clips,
    paired_clips,
)
from cluster.evaluation.evaluate import EvaluationRequest, plan_evaluation
from cluster.evaluation.scores import EvaluationConfig
from ww_data import open_corpus, write_audio
from ww_models import BundleError


def write(folder: Path, names: list[str], rate: int = 16_000, seconds: float = 0.5) -> str:
    rng = np.random.default_rng(len(names))
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, 0.1 * rng.standard_normal(round(seconds * rate)).astype(np.float32), rate)
    return str(folder)


def test_a_limit_takes_evenly_from_all_snrs(small_corpus: Path) -> None:
    mixtures = open_corpus(small_corpus).mixtures("test")
    snr_db = dict(zip(mixtures.ids, mixtures.snrs_db, strict=True))
    assert len({snr_db[mixture_id] for mixture_id in choose_mixtures(mixtures, 5)}) == 5
    assert sorted(choose_mixtures(mixtures, None)) == sorted(snr_db)


def test_a_stored_mixture_is_read_as_it_was_mixed(small_corpus: Path) -> None:
    corpus = open_corpus(small_corpus)
    clips = corpus_clips(corpus, None)
    assert [clip.clip_id for clip in clips] == corpus.mixtures("test").ids
    assert [clip.input_snr_db for clip in clips] == pytest.approx(corpus.mixtures("test").snrs_db, abs=1e-3)
    for mine, stored in zip(clips[3].read(), corpus.mixtures("test")[3], strict=True):
        np.testing.assert_array_equal(mine, stored)
    assert clips[3].num_samples == len(stored)


def test_pairs_of_the_same_names(tmp_path: Path) -> None:
    names = ["p232_001.wav", "p232_002.wav", "p257_001.wav"]
    noisy, clean = write(tmp_path / "noisy", names, 48_000), write(tmp_path / "clean", names, 48_000)
    (tmp_path / "clean" / "p232_002.txt").write_text("Please call Stella.")
    clips = paired_clips("vbd", noisy, clean, None)
    assert [(clip.clip_id, clip.speaker, clip.sample_rate) for clip in clips] == [
        ("vbd/p232_001", "vbd/p232", 48_000),
        ("vbd/p232_002", "vbd/p232", 48_000),
        ("vbd/p257_001", "vbd/p257", 48_000),
    ]
    assert [bool(clip.text_path) for clip in clips] == [False, True, False]
    noisy_T, clean_T = clips[0].read()
    assert clean_T is not None
    assert noisy_T.shape == clean_T.shape == (24_000,)
    assert len(paired_clips("vbd", noisy, clean, 2)) == 2


def test_pairs_of_the_same_number(tmp_path: Path) -> None:
    noisy = write(tmp_path / "noisy", ["a_snr5_tl-25_fileid_3.wav", "b_snr0_tl-20_fileid_12.wav"])
    clean = write(tmp_path / "clean", ["clean_fileid_12.wav", "clean_fileid_3.wav"])
    clips = paired_clips("dns", noisy, clean, None)
    assert [clip.clip_id for clip in clips] == ["dns/fileid_12", "dns/fileid_3"]
    assert [Path(clip.noisy_path).name[0] for clip in clips] == ["b", "a"]
    assert len({clip.speaker for clip in clips}) == 2
    made = write(tmp_path / "made", ["enhanced_fileid_3.wav", "enhanced_fileid_12.wav"])
    assert Path(files_for("x", made, clips)["dns/fileid_12"]).name == "enhanced_fileid_12.wav"


def test_noise_is_known_by_folder_or_prefix() -> None:
    assert noise_kind("noise/test/fan__1.wav") == noise_kind("noise/fan/1.wav") == "fan"


@pytest.mark.parametrize(
    ("names", "rate", "seconds", "words"),
    [
        (["a_1.wav"], 16_000, 0.5, "no file for 1 of 2 clips \\(a_2\\)"),
        (["a_1.wav", "a_2.wav"], 16_000, 0.4, "2 of 2 files .*a_1.wav has 6400 samples, its clip 8000"),
        (["a_1.wav", "a_2.wav"], 8_000, 0.5, "a_1.wav has 8000 Hz, its clip 16000 Hz"),
        ([], 16_000, 0.5, "there is no folder"),
    ],
)
def test_files_that_do_not_fit_are_one_line(
    tmp_path: Path, names: list[str], rate: int, seconds: float, words: str
) -> None:
    clips = noisy_clips(write(tmp_path / "noisy", ["a_1.wav", "a_2.wav"]), None)
    with pytest.raises(EvaluationError, match=words) as error:
        files_for("x", write(tmp_path / "made", names, rate, seconds), clips)
    assert "\n" not in str(error.value)


def test_longer_files_fit(tmp_path: Path) -> None:
    clips = noisy_clips(write(tmp_path / "noisy", ["sub/a_1.wav"]), None)
    assert files_for("x", write(tmp_path / "made", ["a_1.flac"], seconds=0.6), clips)


def test_pairs_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    noisy = write(tmp_path / "noisy", ["a.wav", "b.wav"])
    with pytest.raises(EvaluationError, match=r"1 of 2 files of .* \(b\) have none of that name"):
        paired_clips("x", noisy, write(tmp_path / "clean", ["a.wav"]), None)
    clean = write(tmp_path / "gone", ["a.wav", "b.wav"])
    (tmp_path / "gone" / "b.wav").unlink()
    (tmp_path / "gone" / "b.wav").symlink_to(tmp_path / "nowhere" / "b.wav")
    with pytest.raises(EvaluationError, match=r"1 of 2 recordings of .* cannot be read \(b\.wav: "):
        paired_clips("x", noisy, clean, None)
    with pytest.raises(EvaluationError, match=r"1 of 2 recordings of .* cannot be read"):
        noisy_clips(clean, None)
    with pytest.raises(EvaluationError, match="one rate and one length"):
        paired_clips("x", noisy, write(tmp_path / "other", ["a.wav", "b.wav"], 8_000), None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bundles": ()}, "no bundle"),
        ({"data": ""}, "nothing to score on"),
        ({"noisy": "x"}, "score it by itself"),
        ({"noisy": "x", "data": ""}, "add --dnsmos"),
        ({"recogniser": "no_such_module:x"}, "cannot be imported"),
        ({"recogniser": "math:pi"}, "no callable"),
        ({"groups": {"g": ("a",)}}, "no spread"),
        ({"systems": {"noisy": "x"}}, "names must differ"),
    ],
)
def test_wrong_use_is_refused_in_one_line(
    small_corpus: Path, bundle: Path, settings: dict[str, object], words: str
) -> None:
    given = {"bundles": (str(bundle),), "data": str(small_corpus), **settings}
    with pytest.raises(EvaluationError, match=words) as error:
        plan_evaluation(EvaluationRequest(**given), EvaluationConfig())  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_what_is_no_bundle_no_corpus_or_given_twice_is_refused(
    small_corpus: Path, bundle: Path, tmp_path: Path
) -> None:
    config, data = EvaluationConfig(), str(small_corpus)
    with pytest.raises(EvaluationError, match="twice"):
        plan_evaluation(EvaluationRequest(bundles=(str(bundle),) * 3, data=data), config)
    with pytest.raises(BundleError):
        plan_evaluation(EvaluationRequest(bundles=(str(tmp_path),), data=data), config)
    with pytest.raises(ValueError, match="corpus"):
        plan_evaluation(EvaluationRequest(bundles=(str(bundle),), data=str(tmp_path)), config)
    (tmp_path / "weights.th").write_bytes(b"nothing")
    with pytest.raises(EvaluationError, match=r"weights.th: the file is damaged"):
        plan_evaluation(EvaluationRequest(bundles=(str(tmp_path / "weights.th"),), data=data), config)
    with pytest.raises(ValueError, match="confidence"):
        EvaluationConfig(confidence=95)


def test_a_checkpoint_of_denoiser_is_a_system(small_corpus: Path, tmp_path: Path) -> None:
    import torch

    from ww_models import build_model

    model = build_model("demucs", hidden=4, depth=3, resample=4, kernel=8, stride=4)
    torch.save(model.state_dict(), tmp_path / "dns4.th")
    request = EvaluationRequest(bundles=(str(tmp_path / "dns4.th"),), data=str(small_corpus))
    (system,) = plan_evaluation(request, EvaluationConfig()).models
    facts = system.describe(0.1, "hash")
    assert (system.name, facts.bundle_id, facts.architecture, facts.same_corpus) == (
        "dns4",
        "",
        "demucs",
        None,
    )
