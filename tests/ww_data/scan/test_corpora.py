"""Known data sets, each as a small made-up tree of its layout: who speaks, what is noise, which split it comes with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ww_data import LAYOUTS, CorpusError, Storage
from ww_data.scan.corpora import find_recordings
from ww_data.scan.files import Recording, _list, find_audio

GROUPING = {"speech": "auto", "noise": "file", "rir": "auto"}

# For each data set: files, and what is to be made of them: {name: (role, group, hint)}.
TREES: dict[str, dict[str, tuple[str, str, str]]] = {
    "ms-snsd": {
        "clean_train/clnsp1.wav": ("speech", "clean_train/clnsp1.wav", "train"),
        "clean_train/clnsp2.wav": ("speech", "clean_train/clnsp2.wav", "train"),
        "clean_test/clnsp1.wav": ("speech", "clean_test/clnsp1.wav", "test"),
        "noise_train/AirConditioner_1.wav": ("noise", "noise_train/AirConditioner_1.wav", "train"),
        "noise_test/AirConditioner_9.wav": ("noise", "noise_test/AirConditioner_9.wav", "test"),
    },
    "librispeech": {
        "train-clean-100/19/198/19-198-0000.flac": ("speech", "19", "train"),
        "train-clean-100/19/227/19-227-0004.flac": ("speech", "19", "train"),
        "train-other-500/26/495/26-495-0000.flac": ("speech", "26", "train"),
        "dev-clean/84/121123/84-121123-0001.flac": ("speech", "84", "val"),
        "test-other/367/130732/367-130732-0000.flac": ("speech", "367", "test"),
    },
    "dns": {
        "datasets/clean/book_00000_chp_0009_reader_06709_0.wav": ("speech", "reader_06709", ""),
        "datasets/clean/book_00001_chp_0003_reader_06709_7.wav": ("speech", "reader_06709", ""),
        "datasets/clean/emotional_speech/crema_d/1001_DFA_ANG_XX.wav": (
            "speech",
            "emotional_speech/crema_d",
            "",
        ),
        "datasets/clean/vctk_wav48_silence_trimmed/p225/p225_001_mic1.flac": ("speech", "p225", ""),
        "datasets/noise/-1EjOkNVtZo.wav": ("noise", "-1EjOkNVtZo.wav", ""),
        "datasets/noise/door_Freesound_validated_380364_0.wav": (
            "noise",
            "door_Freesound_validated_380364",
            "",
        ),
        "datasets/noise/door_Freesound_validated_380364_1.wav": (
            "noise",
            "door_Freesound_validated_380364",
            "",
        ),
        "datasets/impulse_responses/SLR26/simulated_rirs_16k/smallroom/Room001/Room001-00001.wav": (
            "rir",
            "smallroom/Room001",
            "",
        ),
    },
    "vctk": {
        "wav48_silence_trimmed/p225/p225_001_mic1.flac": ("speech", "p225", ""),
        "wav48_silence_trimmed/p226/p226_002_mic1.flac": ("speech", "p226", ""),
        "wav48_silence_trimmed/p280/p280_002_mic2.flac": ("speech", "p280", ""),
        "wav48_silence_trimmed/s5/s5_010_mic1.flac": ("speech", "s5", ""),
    },
    "esc50": {
        "audio/1-100032-A-0.wav": ("noise", "100032", ""),
        "audio/1-100032-B-0.wav": ("noise", "100032", ""),
        "audio/5-9032-A-0.wav": ("noise", "9032", ""),
    },
    "urbansound8k": {
        "audio/fold1/101415-3-0-2.wav": ("noise", "101415", ""),
        "audio/fold1/101415-3-0-3.wav": ("noise", "101415", ""),
        "audio/fold10/100648-1-0-0.wav": ("noise", "100648", ""),
    },
    "musan": {
        "speech/us-gov/speech-us-gov-0000.wav": ("speech", "speech-us-gov-0000.wav", ""),
        "noise/free-sound/noise-free-sound-0000.wav": ("noise", "noise-free-sound-0000.wav", ""),
        "music/fma-western-art/music-fma-western-art-0000.wav": (
            "noise",
            "music-fma-western-art-0000.wav",
            "",
        ),
    },
    "rir": {
        "simulated_rirs/smallroom/Room001/Room001-00001.wav": ("rir", "smallroom/Room001", ""),
        "simulated_rirs/largeroom/Room001/Room001-00001.wav": ("rir", "largeroom/Room001", ""),
        "pointsource_noises/noise-free-sound-0000.wav": ("noise", "noise-free-sound-0000.wav", ""),
        "real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla.wav": (
            "rir",
            "RVB2014_type1_rir_largeroom1",
            "",
        ),
        "real_rirs_isotropic_noises/RVB2014_type1_noise_largeroom1_1.wav": (
            "noise",
            "RVB2014_type1_noise_largeroom1_1.wav",
            "",
        ),
    },
    "pairs": {
        "clean_trainset_28spk_wav/p226_001.wav": ("speech", "p226", "train"),
        "clean_trainset_28spk_wav/p226_002.wav": ("speech", "p226", "train"),
        "clean_testset_wav/p232_001.wav": ("speech", "p232", "test"),
    },
}


def lay_out(root: Path, names: list[str]) -> Path:
    """Empty files: a layout is known by names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def tree(root: Path, layout: str) -> Path:
    names = list(TREES[layout])
    if layout == "pairs":
        names += [name.replace("clean", "noisy") for name in names]
    return lay_out(root / "my data", names)


def found(recordings: list[Recording]) -> dict[str, tuple[str, str, str]]:
    return {
        recording.name: (recording.role, recording.group, recording.hint)
        for recording in recordings
        if not recording.skip_reason
    }


def test_every_layout_has_a_tree() -> None:
    assert set(LAYOUTS) == TREES.keys() | {"folder"}


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("layout", TREES)
def test_a_data_set_is_recognised_by_its_files(tmp_path: Path, layout: str, forced: bool) -> None:
    root = tree(tmp_path, layout)
    recordings = find_recordings(root, None, layout=layout if forced else "auto", grouping=GROUPING)
    assert {recording.layout for recording in recordings} == {layout}
    assert not any(recording.skip_reason for recording in recordings)
    assert found([recording for recording in recordings if not recording.minus]) == TREES[layout]


@pytest.mark.parametrize("layout", TREES)
def test_a_data_set_may_lie_a_folder_deeper_or_behind_an_address(tmp_path: Path, layout: str) -> None:
    tree(tmp_path, layout)
    there = find_recordings(Storage(tmp_path).uri, None, grouping=GROUPING)
    assert {recording.layout for recording in there} == {layout}
    expected = {
        (role, hint) if group.endswith(".wav") else (role, hint, group)
        for role, group, hint in TREES[layout].values()
    }
    assert {
        (role, hint) if group.endswith(".wav") else (role, hint, group)
        for role, group, hint in found([recording for recording in there if not recording.minus]).values()
    } == expected


@pytest.mark.parametrize(
    ("layout", "below", "name", "expected"),
    [
        ("librispeech", "dev-clean", "84/121123/84-121123-0001.flac", ("speech", "84", "val")),
        ("vctk", "wav48_silence_trimmed", "p225/p225_001_mic1.flac", ("speech", "p225", "")),
        ("dns", "datasets", "clean/book_00000_chp_0009_reader_06709_0.wav", ("speech", "reader_06709", "")),
        ("esc50", "audio", "5-9032-A-0.wav", ("noise", "9032", "")),
        ("urbansound8k", "audio/fold1", "101415-3-0-2.wav", ("noise", "101415", "")),
        (
            "musan",
            "noise",
            "free-sound/noise-free-sound-0000.wav",
            ("noise", "noise-free-sound-0000.wav", ""),
        ),
        ("rir", "simulated_rirs", "smallroom/Room001/Room001-00001.wav", ("rir", "smallroom/Room001", "")),
    ],
)
def test_a_part_of_a_data_set_is_recognised_as_well(
    tmp_path: Path, layout: str, below: str, name: str, expected: tuple[str, str, str]
) -> None:
    recordings = find_recordings(tree(tmp_path, layout) / below, expected[0], grouping=GROUPING)
    assert {recording.layout for recording in recordings} == {layout}
    assert found(recordings)[name] == expected


def test_the_readers_of_dns_are_known_without_their_folder(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "clean", [f"book_0000{n}_chp_0009_reader_0670{n}_0.wav" for n in range(3)])
    recordings = find_recordings(root, "speech", grouping=GROUPING)
    assert {recording.group for recording in recordings} == {f"reader_0670{n}" for n in range(3)}


def test_only_the_role_in_question_is_taken(tmp_path: Path) -> None:
    root = tree(tmp_path, "musan")
    assert {recording.role for recording in find_recordings(root, "speech", grouping=GROUPING)} == {"speech"}
    assert len(find_recordings(root, "noise", grouping=GROUPING)) == 2
    pairs = tree(tmp_path / "other", "pairs")
    assert not any(
        "noisy" in recording.path for recording in find_recordings(pairs, "speech", grouping=GROUPING)
    )
    with pytest.raises(CorpusError, match="has the layout esc50, in which no speech was found"):
        find_recordings(tree(tmp_path / "third", "esc50"), "speech", grouping=GROUPING)


def test_a_layout_that_holds_nothing_of_a_role_is_not_forced_on_it(tmp_path: Path) -> None:
    root = lay_out(tmp_path, ["fan 1.wav", "rain 2.wav"])
    recordings = find_recordings(root, "noise", layout="librispeech", grouping=GROUPING)
    assert {recording.layout for recording in recordings} == {"folder"}


@pytest.mark.parametrize("layout", sorted(TREES))
def test_a_forced_layout_that_does_not_fit_says_what_was_expected(tmp_path: Path, layout: str) -> None:
    root = lay_out(tmp_path / "speech", ["ann/1.wav", "bob/2.wav"])
    with pytest.raises(
        CorpusError, match=f"has not the layout {layout}: expected (files|the folders|a folder)"
    ) as caught:
        find_recordings(root, None, layout=layout, grouping=GROUPING)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ["clean/ann_1.wav", "clean/bob_1.wav"],  # "clean" alone makes no pairs
        ["clean/ann_1.wav", "noisy/train.wav", "noisy/bus.wav"],  # nor do other names
        ["wav48/1.wav", "wav48/2.wav"],
        ["19/198/1.flac", "26/495/2.flac"],
        ["speech-male-1.wav", "speech-female-2.wav"],
        ["2020-01-02-03.wav", "2020-01-02-04.wav"],
    ],
)
def test_a_plain_folder_is_not_taken_for_a_data_set(tmp_path: Path, names: list[str]) -> None:
    root = lay_out(tmp_path / "speech", names)
    recordings = find_recordings(root, "speech", grouping=GROUPING)
    assert {recording.layout for recording in recordings} == {"folder"}
    assert len(recordings) == len(names)
    with pytest.raises(CorpusError, match="use --speech and --noise for plain folders"):
        find_recordings(root, None, grouping=GROUPING)


@pytest.mark.parametrize("role", ["speech", "noise", "rir"])
@pytest.mark.parametrize("root", ["missing", "file.wav"])
def test_a_root_that_is_no_folder_is_one_clear_line(tmp_path: Path, root: str, role: str) -> None:
    (tmp_path / "file.wav").touch()
    with pytest.raises(CorpusError, match=f"is not a folder of {role} that can be read"):
        find_recordings(tmp_path / root, role, grouping=GROUPING)


def test_an_unknown_layout_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no layout 'voicebank': expected auto, folder, pairs"):
        find_recordings(tmp_path, None, layout="voicebank", grouping=GROUPING)


def test_files_that_do_not_belong_are_listed_with_the_reason(tmp_path: Path) -> None:
    root = tree(tmp_path, "vctk")
    lay_out(root, [*(f"wav48_silence_trimmed/p300/p300_{n:03}_mic1.flac" for n in range(20)), "readme.wav"])
    lay_out(root, ["wav48_silence_trimmed/p225/p225_001_mic2.flac", "old.wma"])
    recordings = find_recordings(root, None, grouping=GROUPING)
    assert {recording.name: recording.skip_reason for recording in recordings if recording.skip_reason} == {
        "readme.wav": "does not belong to the layout vctk",
        "old.wma": ".wma files cannot be read: convert them to WAV or FLAC",
        "wav48_silence_trimmed/p225/p225_001_mic2.flac": "is the same sentence from the second microphone",
    }


def test_no_ending_of_a_file_of_sound_is_overlooked(tmp_path: Path) -> None:
    names = [
        f"a.{ending}"
        for ending in (
            [
                "WAV",
                "wave",
                "snd",
                "mp2",
                "mp3",
                "m4a",
                "m4v",
                "mp4",
                "3gp",
                "3g2",
                "weba",
                "webm",
                "oga",
                "aifc",
            ]
        )
    ]
    lay_out(tmp_path, [*names, "a.txt", "a.wavelet"])
    assert sorted(file.name for file in find_audio(tmp_path)) == sorted(names)
    assert not any(file.skip_reason for file in find_audio(tmp_path))


def test_sound_with_an_ending_that_nobody_knows_is_told_by_its_bytes(tmp_path: Path) -> None:
    """Messengers and recorders have endings of their own; what is no sound, or may be none, is passed over."""
    beginnings = {
        "WhatsApp Audio.mpeg": b"\xff\xfb\x90\0",  # known as MP3
        "voice.3ga": b"\0\0\0\x18ftypmp42",
        "recorder.xyz": b"RIFF\x24\0\0\0WAVEfmt ",
        "no ending": b"fLaC\0\0\0\x22",
        "call.rec": b"OggS\0\2" + bytes(10),
        "talk.dat": b"ID3\4\0\0\0\0\0\0" + bytes(6),
        "film.ts": 2 * (b"G" + bytes(187)),
    }
    others = {
        "list.txt": b"RIFF\x24\0\0\0WAVEfmt ",
        "picture.xyz": b"RIFF\x24\0\0\0WEBPVP8 ",
        "words.xyz": "h\u00e9llo".encode("utf-16"),  # its first bytes might be a frame of MP3
        "empty": b"",
        "program.ts": b"GET: string;",
    }
    for name, content in {**beginnings, **others}.items():
        (tmp_path / name).write_bytes(content)
    assert {file.name for file in _list(Storage(tmp_path))} == set(beginnings)  # as at an address
    os.mkfifo(tmp_path / "pipe")
    found = find_audio(tmp_path)
    assert {file.name for file in found} == set(beginnings)
    assert not any(file.skip_reason for file in found)


def test_the_test_sets_of_dns_are_left_out_of_its_training_data(tmp_path: Path) -> None:
    root = tree(tmp_path, "dns")
    tests = "datasets/test_set/synthetic/no_reverb"
    lay_out(
        root,
        [f"{tests}/clean/clean_fileid_1.wav", f"{tests}/noisy/clnsp1_train_69005_1_snr15_tl-21_fileid_1.wav"],
    )
    recordings = find_recordings(root, None, grouping=GROUPING)
    assert found(recordings) == TREES["dns"]
    assert all(
        "challenge's test set" in recording.skip_reason for recording in recordings if tests in recording.name
    )
    (speech, noise) = find_recordings(root / tests, None, grouping=GROUPING)
    assert (speech.name, noise.name) == ("clean/clean_fileid_1.wav", "clean/clean_fileid_1.wav")
    assert noise.path.endswith("snr15_tl-21_fileid_1.wav")
    assert noise.minus == speech.path


@pytest.mark.parametrize(
    ("names", "hints"),
    [
        (["train/clean/ann_1.wav", "test/clean/bob_1.wav"], ["test", "train"]),
        (["clean/ann_1.wav", "clean/bob_1.wav"], ["", ""]),
        (["clean/p226/p226_001.wav", "clean/p227/p227_001.wav"], ["", ""]),
        (["A/Clean_Speech/ann_1.wav", "A/Clean_Speech/x/bob_1.wav"], ["", ""]),
        (["valid-clean/ann_1.wav", "set/clean/eval/bob_1.wav"], ["test", "val"]),
    ],
)
def test_pairs_lie_at_any_depth(tmp_path: Path, names: list[str], hints: list[str]) -> None:
    noisy = [name.replace("clean", "noisy").replace("Clean", "Noisy") for name in names]
    lay_out(tmp_path, names + [name.replace(".wav", ".flac") for name in noisy])
    recordings = find_recordings(tmp_path, None, grouping=GROUPING)
    assert {recording.layout for recording in recordings} == {"pairs"}
    speech = [recording for recording in recordings if recording.role == "speech"]
    assert sorted(recording.name for recording in speech) == sorted(names)
    assert sorted(recording.hint for recording in speech) == hints
    noise = {recording.name: recording for recording in recordings if recording.role == "noise"}
    for recording in speech:
        twin = noise[recording.name]
        assert twin.minus == recording.path
        assert twin.path == str(
            tmp_path / dict(zip(names, noisy, strict=True))[recording.name].replace(".wav", ".flac")
        )
        assert twin.hint == recording.hint


def test_mixtures_made_of_dns_do_not_belong_to_it(tmp_path: Path) -> None:
    root = tree(tmp_path, "dns")
    made = [
        f"training_set/{kind}/{kind}_fileid_{n}.wav" for kind in ("clean", "noise", "noisy") for n in range(9)
    ]
    lay_out(root, made)
    recordings = find_recordings(root, None, grouping=GROUPING)
    assert found(recordings) == TREES["dns"]
    reasons = {recording.name: recording.skip_reason for recording in recordings if recording.skip_reason}
    assert reasons == dict.fromkeys(made, "lies beside noisy speech: give its folder by itself")
    alone = find_recordings(root / "training_set", None, grouping=GROUPING)
    assert {recording.layout for recording in alone} == {"pairs"}


@pytest.mark.parametrize(
    ("folder", "names", "groups"),
    [
        ("noise_fullband", [f"door_Freesound_validated_{n}_{k}.wav" for n in range(2) for k in range(3)], 2),
        (
            "noise",
            ["fan_Freesound_validated_7_0.wav", "fan_Freesound_validated_7_1.wav", "-1EjOkNVtZo.wav"],
            2,
        ),
        ("datasets/noise", ["x_freesound_7_0.wav", "x_freesound_7_1.wav"], 1),
        ("noise_fullband", ["part/x_freesound_7_0.wav", "part/x_freesound_7_1.wav", "fan.wav"], 2),
    ],
)
def test_the_noises_of_dns_are_known_without_its_speech(
    tmp_path: Path, folder: str, names: list[str], groups: int
) -> None:
    root = lay_out(tmp_path / folder, names)
    for above in (root, root.parent):
        recordings = find_recordings(above, "noise", grouping=GROUPING)
        assert {recording.layout for recording in recordings} == {"dns"}
        assert len({recording.group for recording in recordings}) == groups


def test_the_speech_of_dns_is_known_without_its_noise(tmp_path: Path) -> None:
    names = ["read_speech/book_0_chp_0_reader_7_0.wav", *(f"german_speech/ann/{n}.wav" for n in range(9))]
    recordings = find_recordings(lay_out(tmp_path / "clean_fullband", names), "speech", grouping=GROUPING)
    assert {recording.group for recording in recordings} == {"reader_7", "german_speech/ann"}


def test_what_was_made_of_ms_snsd_may_lie_with_it(tmp_path: Path) -> None:
    root = tree(tmp_path, "ms-snsd")
    made = [
        *(f"CleanSpeech_training/clnsp{n}.wav" for n in range(9)),
        *(f"NoisySpeech_training/noisy{n}_SNRdb_0.0_clnsp{n}.wav" for n in range(9)),
        *(f"Noise_training/noisy{n}_SNRdb_0.0.wav" for n in range(9)),
    ]
    recordings = find_recordings(lay_out(root, made), None, grouping=GROUPING)
    assert found(recordings) == TREES["ms-snsd"]
    assert {recording.name for recording in recordings if recording.skip_reason} == set(made)
