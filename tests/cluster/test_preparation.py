"""Preparing a corpus on Ray: the same files as without it, whatever dies meanwhile and wherever it lies."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow.fs
import pytest

from cluster.evaluation.evaluate import EvaluationRequest, evaluate
from cluster.preparation import on_ray
from cluster.settings.experiment import load_config
from cluster.training.run import run_training
from ww_data import Clip, Corpus, CorpusError, Manifest, open_corpus, scan_corpus, write_corpus
from ww_data.scan.files import Recording
from ww_data.scan.inspection import inspect

SETTINGS = {"segment_s": 2.0, "num_val_mixtures": 6, "num_test_mixtures": 6}
ROOT = Path(__file__).parents[2]


def scan(sources: Path) -> Manifest:
    return scan_corpus(sources / "speech", sources / "noise", val_fraction=0.17, test_fraction=0.17)


def sounds(corpus: Corpus) -> dict[str, Any]:
    """All files but the manifest, which names paths."""
    return {name: about for name, about in corpus.files.items() if "/" in name}


def square(x: int) -> int:
    return x * x


def fail_at_three(x: int) -> int:
    if x == 3:
        raise CorpusError("three.wav: is not what it was")
    return x


def slow_square(x: int) -> tuple[int, int]:
    time.sleep(0.3)
    return x * x, os.getpid()


def test_every_item_has_a_result(local_ray: str) -> None:
    assert sorted(on_ray(square, range(20))) == [x * x for x in range(20)]
    assert list(on_ray(square, [])) == []


def test_what_is_wrong_with_a_file_is_one_line(local_ray: str) -> None:
    with pytest.raises(CorpusError, match=r"^three\.wav: is not what it was$"):
        list(on_ray(fail_at_three, range(5)))


def test_the_corpus_is_that_of_one_process(local_ray: str, small_sources: Path, tmp_path: Path) -> None:
    speech, noise = small_sources / "speech", small_sources / "noise"
    manifest = scan_corpus(speech, noise, val_fraction=0.17, test_fraction=0.17, executor=on_ray)
    assert manifest.hash == scan(small_sources).hash
    on_cluster = write_corpus(manifest, tmp_path / "ray", **SETTINGS, executor=on_ray)
    on_cluster.verify()
    assert sounds(on_cluster) == sounds(write_corpus(manifest, tmp_path / "threads", **SETTINGS))


@pytest.mark.cluster
def test_a_killed_worker_is_made_up_for(local_ray: str) -> None:
    squares: list[int] = []
    killed = 0
    for square_of_item, pid in on_ray(slow_square, range(30)):
        squares.append(square_of_item)
        if len(squares) == 3:  # the process that had this item is at the next one
            killed = pid
            psutil.Process(pid).send_signal(signal.SIGKILL)
    assert killed
    assert sorted(squares) == [x * x for x in range(30)]


def inspect_or_abort(recording: Recording) -> Clip:
    """With a decoder that ends the process, as C libraries do."""
    if recording.name.endswith("deadly.wav"):
        os.abort()
    return inspect(recording)


def all_or_abort(function: Callable[[Any], Any], recordings: Sequence[Recording]) -> Any:
    if any(recording.name.endswith("deadly.wav") for recording in recordings):
        os.abort()
    return function(recordings)


@pytest.mark.cluster
def test_a_file_that_ends_its_workers_costs_itself_alone(
    local_ray: str, small_sources: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_sources, tmp_path, dirs_exist_ok=True)
    speech, noise = tmp_path / "speech", tmp_path / "noise"
    expected = scan(tmp_path)
    speaker = sorted(speech.iterdir())[0]
    shutil.copy(sorted(speaker.iterdir())[0], speaker / "deadly.wav")

    def execute(function: Any, items: Any) -> Iterator[Any]:
        if isinstance(function, functools.partial):
            function = functools.partial(function.func, inspect_or_abort, *function.args[1:])
        else:
            function = functools.partial(all_or_abort, function)
        return on_ray(function, items)

    manifest = scan_corpus(speech, noise, val_fraction=0.17, test_fraction=0.17, executor=execute)
    reasons = {clip.id: clip.skip_reason for clip in manifest.skipped}
    assert reasons == {
        f"speech/{speaker.name}/deadly.wav": "it ended the process that read it: convert it to WAV or FLAC"
    }
    assert manifest.hash == expected.hash


@pytest.mark.cluster
def test_a_killed_command_goes_on_where_it_stopped(small_sources: Path, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    for n in range(12):  # every copy another recording: its first samples differ
        for speaker in sorted((small_sources / "speech").iterdir()):
            target = sources / "speech" / f"{speaker.name}-{n}"
            target.mkdir(parents=True)
            for clip in sorted(speaker.iterdir()):
                content = bytearray(clip.read_bytes())
                content[-2 * (n + 1)] ^= 1
                (target / clip.name).write_bytes(content)
    shutil.copytree(small_sources / "noise", sources / "noise")
    out = tmp_path / "corpus"
    command = [sys.executable, "-m", "jobs.prepare", "--segment-s", "0.5", "--out", str(out)]
    command += ["--speech", str(sources / "speech"), "--noise", str(sources / "noise")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    first = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    deadline = time.monotonic() + 400
    while len(list((out / ".progress").glob("speech-*.json"))) < 2:
        assert first.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]
    for process in family:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)
    first.wait()
    for folder in Path("/tmp").glob(f"ww-ray-{first.pid}-*"):
        shutil.rmtree(folder, ignore_errors=True)
    with pytest.raises(CorpusError, match="holds no corpus"):
        open_corpus(out)
    done = [path.stem.replace("-", "/", 2) for path in (out / ".progress").glob("speech-*.json")]
    before = {name: (out / name).stat().st_mtime_ns for name in done}
    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=960)
    assert second.returncode == 0, second.stderr
    corpus = open_corpus(out)
    corpus.verify()
    assert {name: (out / name).stat().st_mtime_ns for name in done} == before
    assert sum(about.num_segments for about in corpus.splits.values()) >= 12 * 6 * 2 * 10
    assert not (out / ".progress").exists()


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_from_s3_to_s3_and_trained_on_there(
    local_ray: str,
    s3: tuple[str, str],
    small_sources: Path,
    tmp_path: Path,
) -> None:
    start, options = s3
    small_sources = shutil.copytree(small_sources, tmp_path / "sources")
    sample = small_sources / "speech" / "s0" / "0.wav"
    sample.rename(sample.with_name("ein Wort für 100 %.wav"))
    filesystem, folder = pyarrow.fs.FileSystem.from_uri(f"{start}/sounds{options}")
    pyarrow.fs.copy_files(str(small_sources), folder, destination_filesystem=filesystem)
    manifest = scan_corpus(
        f"{start}/sounds/speech{options}",
        f"{start}/sounds/noise{options}",
        val_fraction=0.17,
        test_fraction=0.17,
        executor=on_ray,
    )
    assert manifest.hash == scan(small_sources).hash
    assert any(clip.id.endswith("für 100 %.wav") and clip.split for clip in manifest.clips)
    address = f"{start}/corpus{options}"
    corpus = write_corpus(manifest, address, **SETTINGS, executor=on_ray)
    corpus.verify()
    local = write_corpus(scan(small_sources), tmp_path / "corpus", **SETTINGS)
    assert sounds(corpus) == sounds(local)
    assert write_corpus(manifest, address, **SETTINGS, executor=on_ray) == corpus
    overrides = ["resources.num_workers=1", "training.max_steps=4", "training.validate_every_steps=2"]
    from_s3, from_disk = (
        run_training(load_config("tiny", overrides), uri, tmp_path / "runs", name, show_progress=False)
        for uri, name in ((address, "s3"), (str(tmp_path / "corpus"), "disk"))
    )
    assert from_s3.scores == from_disk.scores
    report = evaluate(EvaluationRequest(bundles=(from_s3.bundle,), data=address))
    assert report.num_clips == 6
