"""Tries are read strictly: what is wrong is told with the file and the try."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.settings.experiment import ConfigError, load_config
from cluster.tuning.tries import read_tries


def test_a_try_is_its_preset_what_all_share_and_its_own_changes(tmp_path: Path) -> None:
    file = tmp_path / "tries.yaml"
    file.write_text("base:\nother: {preset: demo, set: [seed=7]}\n")
    tries = read_tries(file, "tiny", ["seed=3", "training.max_steps=5"])
    assert list(tries) == ["base", "other"]
    assert tries["base"].config == load_config("tiny", ["seed=3", "training.max_steps=5"])
    assert tries["other"].config == load_config("demo", ["seed=7", "training.max_steps=5"])
    assert [one.in_words for one in tries.values()] == ["preset tiny", "seed=7"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lists no tries"),
        ("[a, b]", "lists no tries"),
        ("a: [", "cannot be read"),
        ("a/b: {preset: tiny}", "try 'a/b': it names a folder"),
        ("a: {sets: []}", "try 'a': expected preset and set"),
        ("a: {set: seed=1}", "set takes a list"),
        ("a: {set: [1]}", "set takes a list"),
        ("a: {preset: tinny}", "try 'a': there is no preset 'tinny'; did you mean tiny"),
        ("a: {preset: tiny, set: [loss.l1_wieght=1]}", "did you mean loss.l1_weight"),
        ("a: {set: [seed=1]}", "no preset is given"),
    ],
)
def test_what_is_wrong_is_told_with_the_file_and_the_try(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "tries.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_tries(file)
    assert words in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml cannot be read"):
        read_tries(tmp_path / "no.yaml")
