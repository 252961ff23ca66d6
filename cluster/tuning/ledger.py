"""What a sweep has come to: a file that is whole at any time, from which the same command goes on.

<storage>/<name>/sweep.json   the plan, and of each run its setting, state and scores; at the end the table of all
                 trial_*/     a run each (cluster/runs/folder.py), which keeps its checkpoints and curves itself
                 best.yaml, sweep.html, tracking/
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import one_line
from cluster.runs.checkpoints import Checkpoints
from cluster.runs.folder import BUNDLE_FOLDER, METRICS_FILE, TRACKING_FOLDER, parse_lines
from cluster.settings.experiment import ConfigError
from cluster.tuning.plan import TRY, Plan, plan_from_dict
from cluster.tuning.pruning import is_behind_asha, is_behind_median, rungs
from cluster.tuning.search import Outcome, State, next_values
from ww_data import Corpus, Storage
from ww_data.storage import held_alone
from ww_models.quality import VALIDATION_MEASURES
from ww_models.whole_files import write_whole

SWEEP_FILE = "sweep.json"
_FORMAT, _VERSION = "wave-wizard-sweep", 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A run of a setting. name: of its folder. repeat: which of the runs of its setting, from 0.

    scores: by measure, of its best checkpoint so far.
    """

    name: str
    setting: int
    repeat: int
    values: dict[str, Any]
    state: State = "running"
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    error: str = ""


class Ledger:
    """The trials of a sweep, and which comes next. One process at a time writes it: the one in `held`.

    curves: of each trial its validations: step, trained_s (seconds of training), and a score per measure.
    """

    def __init__(
        self, folder: Path, plan: Plan, corpus: Corpus, trials: Sequence[Trial] = (), spent_s: float = 0.0
    ) -> None:
        self.folder, self.plan, self.corpus = folder, plan, corpus
        self.on_change: Callable[[], None] = lambda: None
        self.rows: list[dict[str, Any]] = []
        self._length = plan.length(sum(shard.num_segments for shard in corpus.shards("train")))
        self._begin(trials, spent_s)

    def _begin(self, trials: Sequence[Trial], spent_s: float) -> None:
        self.trials = {trial.name: trial for trial in trials}
        self.curves = {trial.name: read_curve(Storage(self.folder / trial.name)) for trial in trials}
        self._spent_s, self._since_s = spent_s, time.monotonic()
        # What was cut goes on from its checkpoint; what has failed may do so once there is room on the disk, say.
        self._waiting = [one.name for one in self.trials.values() if one.state in ("running", "failed")]

    @property
    def spent_s(self) -> float:
        """Seconds that the sweep has taken, all starts together."""
        return self._spent_s + time.monotonic() - self._since_s

    @property
    def time_attribute(self) -> str:
        """In what runs are of equal length."""
        return "trained_s" if self.plan.is_equal_time else "step"

    @property
    def is_over(self) -> bool:
        """Whether every run is done, pruned or has failed; one that failed in an earlier start counts as not run."""
        return not self._waiting and self._is_all_drawn() and not self.num_running

    @property
    def is_out_of_time(self) -> bool:
        return bool(self.plan.budget_minutes) and self.spent_s >= 60 * self.plan.budget_minutes

    @property
    def num_running(self) -> int:
        running = [trial for trial in list(self.trials.values()) if trial.state == "running"]
        return len(running) - len(self.waiting_to_go_on)

    @property
    def waiting_to_go_on(self) -> list[str]:
        """Trials that were cut and have not been taken up again."""
        return [name for name in self._waiting if self.trials[name].state == "running"]

    def settings(self) -> list[list[Trial]]:
        """The runs of each setting so far, in the order of the settings."""
        found: dict[int, list[Trial]] = {}
        for trial in list(self.trials.values()):
            found.setdefault(trial.setting, []).append(trial)
        return [found[number] for number in sorted(found)]

    def outcomes(self) -> list[Outcome]:
        """What has come of each setting so far; the score of one is the mean over its runs."""
        return [self._outcome(runs) for runs in self.settings()]

    def take(self) -> Trial | None:
        """The trial to run next, written down as running; None where all were taken."""
        while True:
            if self._waiting:
                trial = self.trials[self._waiting.pop(0)]
            elif (unseen := self._next_repeat() or self._draw()) is not None:
                trial = unseen
                self.curves[trial.name] = []
            else:
                return None
            try:
                self.plan.config_of(trial.values, trial.repeat)
            except ConfigError as error:  # values that are fine alone and do not go together
                self._set(trial, "failed", one_line(error))
                continue
            self._set(trial, "running")
            return trial

    def add_point(self, name: str, metrics: dict[str, Any]) -> None:
        """A validation of a running trial."""
        point = _point(metrics)
        if not point.keys() & VALIDATION_MEASURES.keys():
            return  # a run that was told to end has saved without one
        self.curves[name] = [one for one in self.curves[name] if one["step"] < point["step"]] + [point]
        self.save()  # for the time that is spent; the run itself keeps its curves
        self.on_change()

    def is_behind(self, name: str) -> bool:
        """Whether the plan prunes a trial at its last validation; never one that has come to its end."""
        curve = self._curve(name)
        if self.plan.prune == "none" or not curve or self.fraction(name) >= 1:
            return False
        others = [self._curve(other) for other in self.trials if other != name]
        if self.plan.prune == "median":
            return is_behind_median(curve, others, rungs(self._length)[1])
        return is_behind_asha(curve, others, rungs(self._length))

    def fraction(self, name: str) -> float:
        """How much of its length a trial has done, as of its last validation."""
        points = self.curves[name]
        return min(1.0, points[-1][self.time_attribute] / self._length) if points else 0.0

    def end(self, name: str, state: State, error: str = "") -> None:
        """Writes down how a trial has ended."""
        self._set(self.trials[name], state, error)

    def note_scores(self) -> None:
        """Of runs that are cut, too: what their best checkpoints have."""
        for name, trial in self.trials.items():
            if trial.state == "running":
                self.trials[name] = dataclasses.replace(trial, scores=self._best_scores(trial))

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "format": _FORMAT,
            "format_version": _VERSION,
            "manifest_hash": self.corpus.manifest_hash,
            "plan": self.plan.to_dict(),
            "spent_s": round(self.spent_s, 1),
            "trials": [dataclasses.asdict(trial) for trial in self.trials.values()],
            "metric": self.plan.metric,
            "rows": self.rows,
        }
        write_whole({self.folder / SWEEP_FILE: json.dumps(content, indent=1).encode()})

    def standing(self) -> str:
        """How many of its runs are done, in words."""
        states: list[str] = [
            trial.state for trial in list(self.trials.values())
        ]  # others add to it meanwhile
        counts = [f"{states.count('done')} of {self.plan.num_settings * self.plan.repeats} runs are done"]
        for state, words in (("running", "begun"), ("pruned", "pruned"), ("failed", "failed")):
            if number := states.count(state):
                counts.append(f"{number} {words}")
        return ", ".join(counts)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The sweep is this process's while the block lasts. Raises ConfigError while it is another's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(held_alone(self.folder / ".lock"))
            except BlockingIOError as error:
                raise ConfigError(f"{self.folder} is a sweep that runs at this moment") from error
            if (
                self.folder / SWEEP_FILE
            ).exists():  # another start may have gone on with it since it was read
                written = read_ledger(self.folder, self.corpus)
                if changed := written.plan.differences(self.plan):
                    raise ConfigError(
                        f"{self.folder} is now a sweep with other settings ({'; '.join(changed)})"
                    )
                self._begin(list(written.trials.values()), written.spent_s)
            for trial in list(self.trials.values()):
                if trial.state == "running" and (self.folder / trial.name / BUNDLE_FOLDER).is_dir():
                    self._set(trial, "done")  # the sweep was killed before it could write that down
                    self._waiting.remove(trial.name)
            self.save()
            yield

    def _set(self, trial: Trial, state: State, error: str = "") -> None:
        scores = self._best_scores(trial) if state != "running" else trial.scores
        self.trials[trial.name] = dataclasses.replace(trial, state=state, error=error, scores=scores)
        self.save()
        self.on_change()

    def _best_scores(self, trial: Trial) -> dict[str, float]:
        """Of its best checkpoint, which for a run that is done is the bundle."""
        run = Storage(self.folder / trial.name)
        if not run.path().is_dir():
            return {}
        training = self.plan.config_of(trial.values, trial.repeat).training
        recorded = Checkpoints(run, training).recorded()
        best = max((one.metrics for one in recorded), key=training.goodness, default={})
        return {name: best[name] for name in VALIDATION_MEASURES if name in best}

    def _outcome(self, runs: Sequence[Trial]) -> Outcome:
        scores = [trial.scores.get(self.plan.metric, math.nan) for trial in runs]
        states = {trial.state for trial in runs}
        if states == {"done"} and len(runs) == self.plan.repeats:
            state: State = "done"
        else:
            state = next((one for one in ("failed", "pruned") if one in states), "running")
        steps = [int(self.curves[trial.name][-1]["step"]) for trial in runs if self.curves[trial.name]]
        return Outcome(
            values=runs[0].values,
            state=state,
            score=sum(scores) / len(scores) if state != "running" else math.nan,
            step=max(steps, default=0),
        )

    def _is_all_drawn(self) -> bool:
        return self._next_repeat() is None and len(self.settings()) >= self.plan.num_settings

    def _next_repeat(self) -> Trial | None:
        """Of the first setting that has not run with each of its seeds, unless one has told enough."""
        for number, runs in enumerate(self.settings()):
            if len(runs) < self.plan.repeats and not {"pruned", "failed"} & {run.state for run in runs}:
                return self._trial(number, len(runs), runs[0].values)
        return None

    def _draw(self) -> Trial | None:
        values = next_values(self.plan, outcomes := self.outcomes())
        return None if values is None else self._trial(len(outcomes), 0, values)

    def _trial(self, setting: int, repeat: int, values: dict[str, Any]) -> Trial:
        name = values.get(TRY) or f"trial_{setting:03d}"
        if self.plan.repeats > 1:
            name += f"_seed{repeat}"
        return Trial(name=name, setting=setting, repeat=repeat, values=values)

    def _curve(self, name: str) -> list[tuple[float, float]]:
        metric = self.plan.metric
        return [(point[self.time_attribute], point[metric]) for point in self.curves[name] if metric in point]


def read_ledger(folder: Path, corpus: Corpus) -> Ledger:
    """The sweep of a folder, with the plan that it has. Raises ConfigError where there is none."""
    try:
        content = json.loads((folder / SWEEP_FILE).read_text(encoding="utf-8"))
        if (content.get("format"), content.get("format_version")) != (_FORMAT, _VERSION):
            raise ConfigError(f"{folder} exists already and is of another version; choose another --name")
        trials = [Trial(**values) for values in content["trials"]]
        plan, spent_s = plan_from_dict(content["plan"]), float(content["spent_s"])
        manifest_hash = content["manifest_hash"]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} exists already and holds no sweep ({SWEEP_FILE}); choose another --name"
            if folder.exists()
            else f"there is no sweep to resume at {folder}"
        ) from error
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / SWEEP_FILE} cannot be read ({one_line(error)})") from error
    if manifest_hash != corpus.manifest_hash:
        raise ConfigError(
            f"{folder} is a sweep over other data than {corpus.storage.uri}; choose another --name"
        )
    return Ledger(folder, plan, corpus, trials, spent_s)


def read_curve(run: Storage) -> list[dict[str, float]]:
    """The validations along the way to where a run stands; what it did before it was cut and does again is left out."""
    points: list[dict[str, float]] = []
    if run.size(f"{TRACKING_FOLDER}/{METRICS_FILE}") is None:
        return points
    for line in parse_lines(run.read(f"{TRACKING_FOLDER}/{METRICS_FILE}").decode("utf-8")):
        if line["series"] == "start":
            points = [point for point in points if point["step"] <= line["step"]]
        elif line["series"] == "val":
            points.append(_point(line))
    return points


def _point(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: metrics[name] for name in ("step", "trained_s", *VALIDATION_MEASURES) if name in metrics}
