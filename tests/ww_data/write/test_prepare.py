"""One call prepares a corpus: again, it finds what is there; named by its content, other sounds get another folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ww_data.made_sounds import RATE, hiss, write_folders
from ww_data import CorpusError, prepare_corpus, write_audio
from ww_data.parallel import Progress

SETTINGS = {"segment_s": 1.0, "num_val_mixtures": 2, "num_test_mixtures": 2}


def test_a_second_call_writes_only_what_is_new(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)
    told: list[str] = []

    @contextmanager
    def progress(title: str) -> Iterator[Progress]:
        told.append(title)
        yield lambda done, total, what: told.append(what)

    first = prepare_corpus(
        tmp_path / "corpus", SETTINGS, speech_dirs=speech, noise_dirs=noise, progress=progress
    )
    first.corpus.verify()
    assert first.num_new_files == len(first.corpus.files)
    assert told[0] == "reading files"
    assert "writing corpus" in told
    again = prepare_corpus(tmp_path / "corpus", SETTINGS, speech_dirs=speech, noise_dirs=noise)
    assert (again.corpus, again.num_new_files) == (first.corpus, 0)
    write_audio(noise / "later.wav", hiss(6000, 3.0), RATE)
    grown = prepare_corpus(tmp_path / "corpus", SETTINGS, speech_dirs=speech, noise_dirs=noise)
    assert 0 < grown.num_new_files < len(grown.corpus.files)
    assert not (tmp_path / "corpus" / ".progress").exists()


def test_two_at_once_are_one_too_many_from_the_reading_on(tmp_path: Path) -> None:
    """What the other finds there decides the splits; and nobody reads for hours to hear it at the end."""
    speech, noise = write_folders(tmp_path)
    refused: list[str] = []

    @contextmanager
    def meanwhile(title: str) -> Iterator[None]:
        with pytest.raises(CorpusError, match="another run is writing there") as caught:
            prepare_corpus(tmp_path / "corpus", SETTINGS, speech_dirs=speech, noise_dirs=noise)
        refused.append(str(caught.value))
        yield

    prepare_corpus(
        tmp_path / "corpus", SETTINGS, speech_dirs=speech, noise_dirs=noise, progress=meanwhile
    ).corpus.verify()
    assert len(refused) == 2
    assert not (tmp_path / "corpus" / ".lock").exists()


def test_a_folder_that_is_named_by_its_content(tmp_path: Path) -> None:
    speech, noise = write_folders(tmp_path)

    def prepare(**settings: float) -> Path:
        prepared = prepare_corpus(
            tmp_path / "corpus",
            SETTINGS | settings,
            named_by_content=True,
            speech_dirs=speech,
            noise_dirs=noise,
        )
        return prepared.corpus.storage.path()

    first = prepare()
    assert first.name.startswith("corpus-")
    assert prepare() == first
    assert prepare(segment_s=1.5) != first
    write_audio(noise / "later.wav", hiss(6000, 3.0), RATE)
    assert prepare() != first
