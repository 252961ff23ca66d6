"""The file of a sweep is whole at any time, and what it says is what a sweep goes on from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.settings.experiment import ConfigError
from cluster.tuning.ledger import Ledger, read_curve, read_ledger
from cluster.tuning.plan import plan_of_space
from cluster.tuning.results import conclude, luck
from cluster.tuning.sweep import open_sweep
from jobs import train
from tests.cluster.tuning.made_sweeps import CONFIG, made_ledger, pesq_of
from ww_data import Storage, open_corpus


def new(folder: Path, corpus: Path, space: str = "loss.l1_weight=0..4", **options: Any) -> Ledger:
    plan = plan_of_space(CONFIG, [space], metric="pesq", **{"search": "random", "trials": 3, **options})
    return Ledger(folder, plan, open_corpus(str(corpus)))


def taken(ledger: Ledger) -> list[str]:
    names = []
    while (trial := ledger.take()) is not None:
        names.append(trial.name)
    return names


def test_what_was_cut_or_has_failed_is_taken_again_and_what_is_done_never(
    small_corpus: Path, tmp_path: Path
) -> None:
    ledger = new(tmp_path / "sweep", small_corpus, trials=4)
    for state in ("done", "pruned", "failed"):
        trial = ledger.take()
        assert trial is not None
        ledger.end(trial.name, state, "")  # type: ignore[arg-type]
    cut = ledger.take()
    assert cut is not None
    again = read_ledger(tmp_path / "sweep", open_corpus(str(small_corpus)))
    assert again.plan == ledger.plan
    assert again.trials == ledger.trials
    assert not again.is_over
    assert taken(again) == ["trial_002", "trial_003"]
    assert again.trials["trial_003"].values == cut.values


def test_a_run_that_left_its_bundle_is_done_although_nobody_wrote_that_down(
    small_corpus: Path, tmp_path: Path
) -> None:
    ledger = new(tmp_path / "sweep", small_corpus, trials=1)
    assert taken(ledger) == ["trial_000"]
    (tmp_path / "sweep" / "trial_000" / "bundle").mkdir(parents=True)
    again = read_ledger(tmp_path / "sweep", open_corpus(str(small_corpus)))
    with again.held():
        assert again.trials["trial_000"].state == "done"
        assert again.is_over
        assert taken(again) == []


def test_repeats_run_in_a_row_and_not_of_what_was_pruned(small_corpus: Path, tmp_path: Path) -> None:
    ledger = new(tmp_path / "sweep", small_corpus, trials=2, repeats=2)
    first = ledger.take()
    assert first is not None
    ledger.end(first.name, "pruned")
    assert [first.name, *taken(ledger)] == ["trial_000_seed0", "trial_001_seed0", "trial_001_seed1"]
    assert ledger.trials["trial_001_seed0"].values == ledger.trials["trial_001_seed1"].values


def test_values_that_do_not_go_together_fail_without_a_run(small_corpus: Path, tmp_path: Path) -> None:
    space = ["loss.l1_weight=0,1", "loss.stft_weight=0,1"]
    plan = plan_of_space(CONFIG, space, metric="pesq", search="grid")
    ledger = Ledger(tmp_path / "sweep", plan, open_corpus(str(small_corpus)))
    assert taken(ledger) == ["trial_001", "trial_002", "trial_003"]
    assert ledger.trials["trial_000"].state == "failed"
    assert "all weights" in ledger.trials["trial_000"].error


def test_one_process_at_a_time_has_a_sweep(small_corpus: Path, tmp_path: Path) -> None:
    ledger = new(tmp_path / "sweep", small_corpus)
    with ledger.held():
        other = new(tmp_path / "sweep", small_corpus).held()
        with pytest.raises(ConfigError, match="runs at this moment"):
            other.__enter__()
    with ledger.held():
        pass


def test_what_another_start_did_after_it_was_read_is_not_done_again(
    small_corpus: Path, tmp_path: Path
) -> None:
    late, other = new(tmp_path / "sweep", small_corpus), new(tmp_path / "sweep", small_corpus)
    with other.held():
        trial = other.take()
        assert trial is not None
        other.end(trial.name, "done")
    with late.held():
        assert late.trials[trial.name].state == "done"
        assert trial.name not in taken(late)
    with pytest.raises(ConfigError, match="now a sweep with other settings"):
        new(tmp_path / "sweep", small_corpus, "loss.l1_weight=0..5").held().__enter__()


def test_another_space_is_refused_with_the_difference(small_corpus: Path, tmp_path: Path) -> None:
    ledger = new(tmp_path / "sweep", small_corpus)
    ledger.save()
    options = (str(small_corpus), tmp_path, "sweep")
    assert open_sweep(None, *options).plan == ledger.plan
    more = dataclasses.replace(ledger.plan, trials=9, concurrent=2)
    assert open_sweep(more, *options).plan == more
    other = new(tmp_path / "sweep", small_corpus, "loss.l1_weight=0..5").plan
    with pytest.raises(ConfigError, match=r"space.loss.l1_weight: 0\.\.4 -> 0\.\.5"):
        open_sweep(other, *options)
    with pytest.raises(ConfigError, match="there is no sweep to resume"):
        open_sweep(None, str(small_corpus), tmp_path, "none")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"metric": "pesq", "rows": []}', "of another version"),
        ("{", "cannot be read"),
        (None, "holds no sweep"),
    ],
)
def test_what_is_no_sweep_is_left_alone(
    small_corpus: Path, tmp_path: Path, text: str | None, words: str
) -> None:
    (tmp_path / "sweep").mkdir()
    if text is not None:
        (tmp_path / "sweep" / "sweep.json").write_text(text)
    with pytest.raises(ConfigError, match=words):
        open_sweep(new(tmp_path / "sweep", small_corpus).plan, str(small_corpus), tmp_path, "sweep")


def test_of_a_curve_what_was_done_again_counts_once(tmp_path: Path) -> None:
    lines = [("start", 0), ("val", 2), ("val", 4), ("start", 2), ("val", 4), ("val", 6)]
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"series": series, "step": step, "trained_s": float(number), "pesq": 1.5}) + "\n"
            for number, (series, step) in enumerate(lines)
        )
    )
    points = read_curve(Storage(tmp_path))
    assert [(point["step"], point["trained_s"]) for point in points] == [(2, 1), (4, 4), (6, 5)]


def test_asha_ends_a_trial_that_is_behind_and_none_at_its_end(small_corpus: Path, tmp_path: Path) -> None:
    ledger = made_ledger(tmp_path, small_corpus, prune="asha")
    values = ledger.curves["trial_000"]
    ledger.curves["trial_001"] = [{**point, "pesq": 1.0} for point in values]
    for until, is_behind in ((1, True), (2, False), (3, True), (9, False)):
        ledger.curves["trial_000"] = [{**point, "pesq": 0.5} for point in values[:until]]
        assert ledger.is_behind("trial_000") == is_behind, until


def test_settings_are_ranked_by_the_mean_of_their_seeds(small_corpus: Path, tmp_path: Path) -> None:
    ledger = made_ledger(tmp_path / "sweep", small_corpus, repeats=3, num_pruned=2)
    result = conclude(ledger)
    done = [row for row in result.rows if row["state"] == "done"]
    assert [row["state"] for row in result.rows] == ["done"] * 7 + ["pruned"] * 2
    assert [row["pesq"] for row in done] == sorted((row["pesq"] for row in done), reverse=True)
    for row in done:
        scores = [pesq_of(row, seed) for seed in range(3)]
        assert row["pesq"] == pytest.approx(sum(scores) / 3)
        assert row["runs"] == 3
        assert 0 < row["spread"] < 0.02
    line = ["--data", "x", "--config", str(tmp_path / "sweep" / "best.yaml")]
    best = train.config_from(train.parser().parse_args(line))
    assert best.loss.l1_weight == done[0]["loss.l1_weight"]
    assert best.training.score == "pesq"
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"] == result.rows


def test_a_lead_is_held_against_what_seeds_make(small_corpus: Path, tmp_path: Path) -> None:
    assert "how much of that is luck" in luck(made_ledger(tmp_path, small_corpus))
    far = made_ledger(tmp_path, small_corpus, ["loss.l1_weight=1,4"], repeats=3)
    assert "more than seeds alone make" in luck(far)
    near = made_ledger(tmp_path, small_corpus, ["loss.l1_weight=1,1.001"], repeats=3)
    assert "no more than seeds alone may make" in luck(near)
