"""Sweeps: the space is read strictly, and each trial is a Ray Train run whose result is the table's row."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np
import pytest

from cluster.runs.folder import read_run_config
from cluster.settings.experiment import ConfigError, load_config
from cluster.tuning.space import parse_space, with_settings
from cluster.tuning.sweep import run_sweep, run_tries, standing
from cluster.tuning.tries import read_tries
from jobs import train
from tests.cluster.sockets import assert_loopback, listening
from ww_data import Storage
from ww_models import load_bundle

TINY = load_config("tiny", ["training.max_steps=4", "training.validate_every_steps=2"])


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("loss.l1_wieght=0..5", "did you mean loss.l1_weight?"),
        ("loss.l1_weight", "--space takes KEY=LOW..HIGH"),
        ("loss.l1_weight=5..0", "must run upwards"),
        ("loss.l1_weight=a..b", "not LOW..HIGH with two numbers"),
        ("loss.l1_weight=0..5:log", "starts above 0"),
        ("loss.l1_weight=0..5:sqrt", "may end in ':log'"),
        ("loss.l1_weight=0..inf", "two finite numbers"),
        ("loss.l1_weight=1,", "takes a value of type float"),
        ("loss.l1_weight=[1,2]", "is not a value"),
        ("loss.l1_weight=a,b", "takes a value of type float"),
        ("loss.l1_weight=-1..2", "give a finite number of at least 0"),
        ("training.batch_size=1.5..4", "takes whole numbers"),
        ("training.batch_size=0..4", "must be at least 1"),
    ],
)
def test_wrong_spaces_are_refused_in_plain_words(expression: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_space([expression], TINY)
    assert words in str(error.value)


def test_a_space_without_any_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to train on"):
        parse_space(["loss.l1_weight=0..0", "loss.stft_weight=0,0"], TINY)
    parse_space(["loss.l1_weight=0..0", "loss.stft_weight=0..1"], TINY)


def test_whole_numbers_stay_whole() -> None:
    (dimension,) = parse_space(["optimizer.warmup_steps=0..500"], TINY)
    drawn = [dimension.sampler.sample() for _ in range(50)]
    assert all(isinstance(value, int | np.integer) and 0 <= value <= 500 for value in drawn)
    assert len(set(drawn)) > 10


def test_settings_of_a_trial_are_checked_like_any_other() -> None:
    assert with_settings(TINY, {"loss.l1_weight": 2.5}).loss.l1_weight == 2.5
    with pytest.raises(ConfigError, match="all weights"):
        with_settings(TINY, {"loss.l1_weight": 0, "loss.stft_weight": 0})


def test_a_sweep_that_was_cut_goes_on_with_the_line_that_it_shows(tmp_path: Path) -> None:
    folder, corpus = tmp_path / "my sweep", "s3://bucket/a corpus?endpoint_override=127.0.0.1"
    (folder / "trial_1" / "bundle").mkdir(parents=True)
    (folder / "trial_2").mkdir()
    stands = standing(folder, corpus)
    line = stands[stands.index("python -m jobs.train ") : stands.index(" goes on with one")]
    arguments = train.parser().parse_args(shlex.split(line)[3:])
    assert (arguments.data, arguments.storage, arguments.resume) == (corpus, str(folder), "trial_2")


@pytest.mark.cluster
def test_sweep_runs_each_trial_as_its_own_training_run(
    local_ray: str, small_corpus: Path, tmp_path: Path
) -> None:
    space = parse_space(["loss.l1_weight=0..5", "loss.stft_weight=0.1..5:log"], TINY)
    heard = list[dict[str, list[str]]]()
    result = run_sweep(
        TINY,
        space,
        str(small_corpus),
        tmp_path,
        "sweep",
        trials=2,
        measure="si_sdr_db",
        progress=lambda *state: heard.append(listening(os.getpid())),
    )
    for there in heard:
        assert_loopback(there)
    assert len(result.rows) == 2
    assert not any(row["error"] for row in result.rows)
    weights = [(row["loss.l1_weight"], row["loss.stft_weight"]) for row in result.rows]
    assert len(set(weights)) == 2
    scores = [row["si_sdr_db"] for row in result.rows]
    assert scores == sorted(scores, reverse=True)
    for row in result.rows:
        run_dir = result.folder / row["trial"]
        assert load_bundle(run_dir / "bundle").num_parameters > 0
        assert read_run_config(Storage(run_dir)).loss.l1_weight == pytest.approx(row["loss.l1_weight"])
    best = load_config(str(result.folder / "best.yaml"))
    assert best == with_settings(TINY, {"loss.l1_weight": weights[0][0], "loss.stft_weight": weights[0][1]})


@pytest.mark.cluster
def test_tries_run_each_as_it_stands_for_the_same_time(
    local_ray: str, small_corpus: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tries.yaml"
    file.write_text("base:\nquick: {set: [optimizer.learning_rate=2e-3, training.validate_every_steps=1]}\n")
    # So little time that the first step uses it up.
    shared = ["training.max_steps=40", "training.validate_every_steps=2", "training.budget_minutes=1e-4"]
    tries = read_tries(file, "tiny", shared)
    result = run_tries(tries, str(small_corpus), tmp_path, "tries")
    rows = {row["trial"]: row for row in result.rows}
    assert set(rows) == {"base", "quick"}
    assert not any(row["error"] for row in result.rows)
    assert rows["base"]["change"] == "preset tiny"
    assert result.rows[0]["si_sdr_db"] >= result.rows[1]["si_sdr_db"]
    for name, one in tries.items():
        assert read_run_config(Storage(result.folder / name)).optimizer == one.config.optimizer
        steps = sorted(path.name for path in (result.folder / name).glob("checkpoint_*"))
        assert steps == ["checkpoint_000000001"]
    best = load_config(str(result.folder / "best.yaml"))
    assert best.optimizer == tries[result.rows[0]["trial"]].config.optimizer
