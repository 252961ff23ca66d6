"""Checkpoints: only whole ones are taken, whatever was cut or damaged, wherever they lie; and the right ones stay."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cluster.runs.checkpoints import RECORD_FILE, STATE_FILE, Checkpoint, CheckpointError, Checkpoints
from cluster.runs.transfer import WorkingCopy, replace_folder
from cluster.settings.training import TrainingConfig
from ww_data import Storage
from ww_models import build_model, save_bundle

TRAINING = TrainingConfig(score="si_sdr_db")


@pytest.fixture(params=["folder", "address"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(tmp_path / "run" if request.param == "folder" else f"memory://{uuid.uuid4().hex}/run")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model("demucs", hidden=2, depth=2, normalize="none")
    folder = tmp_path_factory.mktemp("model") / "bundle"
    return save_bundle(folder, model, training={"model": {"name": "demucs", "hidden": 2}})


def store(run: Storage, bundle: Path, tmp_path: Path, step: int, score: float = 0.0) -> None:
    folder = tmp_path / f"made-{step}"
    replace_folder(bundle, Storage(folder), "bundle")
    (folder / STATE_FILE).write_bytes(b"weights of step %d" % step)
    Checkpoints(run, TRAINING).store(folder, step, {"si_sdr_db": score, "step": step})


def steps(run: Storage) -> list[int]:
    return [checkpoint.step for checkpoint in Checkpoints(run, TRAINING).recorded()]


def newest(run: Storage, tmp_path: Path) -> tuple[Checkpoint | None, list[str]]:
    return Checkpoints(run, TRAINING).newest(tmp_path / f"copy-{uuid.uuid4().hex}")


def flip_a_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def cut_short(content: bytes) -> bytes:
    return content[:-3]


def test_the_last_is_taken_with_all_that_was_stored(run: Storage, bundle: Path, tmp_path: Path) -> None:
    assert newest(run, tmp_path) == (None, [])
    for step in (5, 10):
        store(run, bundle, tmp_path, step, score=1.5)
    checkpoints = Checkpoints(run, TRAINING)
    taken, complaints = checkpoints.newest(tmp_path / "copy")
    assert taken is not None
    assert (taken.step, taken.metrics, complaints) == (10, {"si_sdr_db": 1.5, "step": 10}, [])
    here = checkpoints.check(taken, tmp_path / "copy")
    assert (here / STATE_FILE).read_bytes() == b"weights of step 10"
    assert (here / "bundle" / "config.json").read_bytes() == (bundle / "config.json").read_bytes()


def test_one_that_was_cut_while_it_was_written_is_never_taken(
    run: Storage, bundle: Path, tmp_path: Path
) -> None:
    """The record is written last: without it any other file may be there, whole or not."""
    store(run, bundle, tmp_path, 5)
    store(run, bundle, tmp_path, 10)
    run.delete(f"checkpoint_000000010/{RECORD_FILE}")
    taken, complaints = newest(run, tmp_path)
    assert taken is not None
    assert (taken.step, complaints) == (5, [])
    run.delete(f"checkpoint_000000005/{RECORD_FILE}")
    assert newest(run, tmp_path) == (None, []), (
        "no checkpoint was ever finished: that is a start from the beginning"
    )


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *itertools.product(
            [STATE_FILE, "bundle/weights.safetensors", "bundle/README.md"], [flip_a_bit, cut_short, None]
        ),
        *itertools.product([RECORD_FILE], [flip_a_bit, cut_short]),  # without one it was never finished
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_it_taken(
    run: Storage, bundle: Path, tmp_path: Path, file: str, damage: Callable[[bytes], bytes] | None
) -> None:
    for step in (5, 10):
        store(run, bundle, tmp_path, step)
    name = f"checkpoint_000000010/{file}"
    if damage is None:
        run.delete(name)
    else:
        run.write(name, damage(run.read(name)))
    taken, complaints = newest(run, tmp_path)
    assert taken is not None
    assert taken.step == 5
    assert len(complaints) == 1
    assert complaints[0].startswith(f"{run.address('checkpoint_000000010')}: {file} is ")
    store(run, bundle, tmp_path, 10)
    assert newest(run, tmp_path)[0] is not None
    assert newest(run, tmp_path)[1] == [], "the step was done again and stored again"


def test_a_record_that_was_edited_is_damaged(run: Storage, bundle: Path, tmp_path: Path) -> None:
    store(run, bundle, tmp_path, 5, score=1.0)
    record = f"checkpoint_000000005/{RECORD_FILE}"
    run.write(record, run.read(record).replace(b"1.0", b"9.0"))
    with pytest.raises(CheckpointError, match="checksum differs"):
        newest(run, tmp_path)


def test_if_all_are_damaged_that_is_one_line(run: Storage, bundle: Path, tmp_path: Path) -> None:
    for step in (5, 10):
        store(run, bundle, tmp_path, step)
        run.write(f"checkpoint_{step:09d}/{STATE_FILE}", b"")
    with pytest.raises(CheckpointError) as error:
        newest(run, tmp_path)
    words = str(error.value)
    assert "\n" not in words
    for part in ("checkpoint_000000010: state.ckpt is damaged", "checkpoint_000000005", "another name"):
        assert part in words


def test_the_best_and_the_last_two_are_kept(run: Storage, bundle: Path, tmp_path: Path) -> None:
    kept = []
    for step, score in enumerate([1.0, 9.0, 2.0, 3.0, 9.0, float("nan"), 4.0], start=1):
        store(run, bundle, tmp_path, step, score)
        kept.append(steps(run))
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [2, 5, 6], [2, 6, 7]]
    names = {file.name.partition("/")[0] for file in run.files()}
    assert names == {f"checkpoint_{step:09d}" for step in (2, 6, 7)}, "nothing is left of the others"


def test_what_is_damaged_and_ahead_takes_nobodys_place(run: Storage, bundle: Path, tmp_path: Path) -> None:
    """A run that fell back from step 12 to 8 passes 10: its fall-back must not be removed for the sake of 12."""
    for step, score in ((4, 0.0), (8, 1.0), (12, 9.0)):
        store(run, bundle, tmp_path, step, score)
    run.write(f"checkpoint_000000012/{STATE_FILE}", b"")
    store(run, bundle, tmp_path, 10)
    assert steps(run) == [8, 10, 12]
    taken, complaints = newest(run, tmp_path)
    assert taken is not None
    assert (taken.step, len(complaints)) == (10, 1)


def test_the_best_bundle_is_the_best_that_is_whole(run: Storage, bundle: Path, tmp_path: Path) -> None:
    checkpoints = Checkpoints(run, TRAINING)
    for step, score in ((1, 5.0), (2, 7.0), (3, 6.0)):
        store(run, bundle, tmp_path, step, score)
    best, folder = checkpoints.best_bundle(tmp_path / "a")
    assert best.step == 2
    assert (folder / "README.md").read_bytes() == (bundle / "README.md").read_bytes()
    run.delete("checkpoint_000000002/bundle/weights.safetensors")
    assert checkpoints.best_bundle(tmp_path / "b")[0].step == 3
    run.delete("checkpoint_000000003/bundle/config.json")
    with pytest.raises(CheckpointError, match="no checkpoint with a whole bundle"):
        checkpoints.best_bundle(tmp_path / "c")


def test_another_model_than_the_settings_ask_for_is_named(run: Storage, bundle: Path, tmp_path: Path) -> None:
    store(run, bundle, tmp_path, 5)
    checkpoints = Checkpoints(run, TRAINING)
    taken, _ = checkpoints.newest(tmp_path / "copy")
    assert taken is not None
    same, other = {"name": "demucs", "hidden": 2}, {"name": "demucs", "hidden": 4}
    assert checkpoints.check_model(taken, tmp_path / "copy", same) == []
    assert checkpoints.check_model(taken, tmp_path / "copy", other) == ["hidden: 2 -> 4"]


def test_a_working_copy_brings_what_was_there_and_sends_what_has_changed(
    run: Storage, tmp_path: Path
) -> None:
    run.write("tracking/old.txt", b"old")
    run.write("tracking/sub/gone.txt", b"gone")
    copy = WorkingCopy(run, "tracking")
    assert (copy.path / "old.txt").read_bytes() == b"old"
    (copy.path / "old.txt").write_bytes(b"old and more")
    (copy.path / "sub" / "new.txt").write_bytes(b"new")
    (copy.path / "sub" / "gone.txt").unlink()
    copy.send()
    expected = {"tracking/old.txt": b"old and more", "tracking/sub/new.txt": b"new"}
    assert {file.name: run.read(file.name) for file in run.files()} == expected
    (copy.path / "late.txt").write_bytes(b"late")
    copy.close()
    assert run.read("tracking/late.txt") == b"late"
    assert run.is_local == copy.path.exists(), "a copy is left behind"
