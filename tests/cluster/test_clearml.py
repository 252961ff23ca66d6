"""What ClearML keeps of a run: as an offline session, on a server, and when that server is not what it should be.

Runs are scripts in processes of their own, since some are killed; the server is `clearml_server.py`, on loopback.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile as sf

from cluster.clearml_task import clearml_notice
from cluster.config import load_config

_spec = importlib.util.spec_from_file_location(
    "clearml_server", Path(__file__).with_name("clearml_server.py")
)
assert _spec is not None
assert _spec.loader is not None
clearml_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(clearml_server)

# A run in small: `steps` says which points it adds, `then` what happens before it closes.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import matplotlib.figure
import numpy as np
import torch.utils.tensorboard
from cluster.pictures import compare_signals
from cluster.tracking import Tracker, TrackingConfig

folder, steps, mode = Path(sys.argv[1]), eval(sys.argv[2]), sys.argv[3]
(folder / "bundle").mkdir(exist_ok=True)
(folder / "bundle" / "config.json").write_text("{}")
tone = 0.1 * np.sin(np.arange(8000) * 0.1).astype(np.float32)
start_s = time.monotonic()
config = TrackingConfig(clearml=mode, clearml_close_s=20)
with Tracker(config, folder / "tracking", "a run", tags=["tiny", "manifest:abc"]) as tracker:
    tracker.config({"loss.l1_weight": 2.0, "model.hidden": 48, "seed": 3})
    for step in steps:
        tracker.scalars("train", {"loss": 1.0 / step, "steps_per_s": 2.0, "broken": float("nan")}, step)
        tracker.scalars("val", {"loss": 2.0 / step, "pesq": 1.5, "stoi": 0.8, "snr_db": 7.5}, step)
        tracker.scalars("noisy", {"pesq": 1.25, "stoi": 0.7, "snr_db": 2.5}, step)
    tracker.scalars("test", {"pesq": 1.75}, steps[-1])
    tracker.audio("example_0/noisy", tone, 16000, steps[-1])
    tracker.image("example_0", compare_signals(tone, tone, tone, 16000), steps[-1])
    tracker.model(folder / "bundle", {"si_sdr_db": 9.5, "noisy_si_sdr_db": 4.5})
    print("took", time.monotonic() - start_s, flush=True)
    THEN
    start_s = time.monotonic()
print("closed", time.monotonic() - start_s, flush=True)
"""


def start(
    folder: Path,
    environment: dict[str, str],
    *,
    steps: str = "(10, 20)",
    then: str = "pass",
    mode: str = "auto",
) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLEARML_")}
    none = {"CLEARML_CONFIG_FILE": str(folder / "none.conf"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("THEN", then), str(folder), steps, mode],
        env={**inherited, **none, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], *, code: int = 0) -> tuple[dict[str, float], str]:
    """What the run took in seconds, and what it told people."""
    out, said = process.communicate(timeout=90)
    assert process.returncode == code, said
    times = {name: float(value) for name, value in re.findall(r"^(took|closed) ([\d.]+)$", out, re.MULTILINE)}
    return times, said


def run(folder: Path, environment: dict[str, str], **options: Any) -> tuple[dict[str, float], str]:
    return finish(start(folder, environment, **options))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen within 60 s"
        time.sleep(0.05)


@pytest.fixture
def server() -> Iterator[Any]:
    with clearml_server.ClearMLServer() as running:
        yield running
        assert running.unknown == []


def journal_steps(folder: Path, series: str) -> list[int]:
    lines = [json.loads(line) for line in (folder / "tracking" / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["series"] == series]


def offline_sessions(folder: Path) -> list[Path]:
    return sorted((folder / "tracking" / "clearml" / "offline").glob("*.zip"))


def offline_curves(session: Path) -> dict[tuple[str, str], dict[int, float]]:
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for line in (session.with_suffix("") / "metrics.jsonl").read_text().splitlines():
        for event in json.loads(line):
            if "value" in event:
                curves.setdefault((event["metric"], event["variant"]), {})[event["iter"]] = event["value"]
    return curves


EXPECTED = {
    ("loss", "train"): {10: 0.1, 20: 0.05},
    ("loss", "val"): {10: 0.2, 20: 0.1},
    ("steps per s", "train"): {10: 2.0, 20: 2.0},
    ("PESQ", "val"): {10: 1.5, 20: 1.5},
    ("PESQ", "noisy"): {10: 1.25, 20: 1.25},
    ("PESQ", "test"): {20: 1.75},
    ("STOI", "val"): {10: 0.8, 20: 0.8},
    ("STOI", "noisy"): {10: 0.7, 20: 0.7},
    ("SNR (dB)", "val"): {10: 7.5, 20: 7.5},
    ("SNR (dB)", "noisy"): {10: 2.5, 20: 2.5},
}


def test_a_server_hears_everything(server: Any, tmp_path: Path) -> None:
    process = start(tmp_path, server.environment, then="sys.stdin.readline()")
    wait_until(
        lambda: bool(server.curve(":monitor:machine", "memory_used_gb"))
    )  # read some seconds after the start
    _, said = finish(process)
    assert said == ""
    task = server.only_task
    assert task["name"] == "a run"
    assert task["status"] == "completed"
    assert {"tiny", "manifest:abc"} <= set(task["tags"])
    assert "script" not in task or not task["script"].get("repository"), "without looking for a repository"
    values = {name: entry["value"] for name, entry in task["hyperparams"]["config"].items()}
    assert values == {"loss.l1_weight": "2.0", "model.hidden": "48", "seed": "3"}

    own = {("loss", "broken"), *EXPECTED}
    assert {key: server.curve(*key) for key in own if server.curve(*key)} == EXPECTED
    titles = {event["metric"] for event in server.events if event["type"] == "training_stats_scalar"}
    assert titles == {title for title, _ in EXPECTED} | {"Summary", ":monitor:machine"}
    assert server.curve(":monitor:machine", "cpu_usage")
    assert set(server.curve(":monitor:machine", "cpu_usage")) == {20}, (
        "machine load stands at the run's steps"
    )
    assert min(server.curve(":monitor:machine", "memory_used_gb").values()) > 0.3, "of the whole machine"

    samples, rate = sf.read(io.BytesIO(server.media("example_0", "noisy")[20]))
    assert rate == 16_000
    np.testing.assert_allclose(samples, 0.1 * np.sin(np.arange(8000) * 0.1), atol=1e-4)
    assert server.media("example_0", "picture")[20].startswith(b"\x89PNG")

    (model,) = server.models.values()
    assert task["models"]["output"][0]["model"] == model["id"]
    scores = {name: float(entry["value"]) for name, entry in model["metadata"].items()}
    assert scores == {"SI-SDR (dB)": 9.5, "SI-SDR (dB), noisy": 4.5}
    bundle = server.files[model["uri"].removeprefix(server.address)]
    assert bundle.startswith(b"PK")
    assert list(server.curve("Summary", "SI-SDR (dB)").values()) == [9.5]
    left = {path.name for path in (tmp_path / "tracking" / "clearml").iterdir()}
    assert left == {"clearml.log"}, "what was delivered is not kept twice"


def test_offline_session_holds_everything(tmp_path: Path) -> None:
    _, said = run(tmp_path, {}, mode="offline")
    (session,) = offline_sessions(tmp_path)
    task = json.loads((session.with_suffix("") / "task.json").read_text())
    assert task["name"] == "a run"
    assert task["project_name"] == "Wave Wizard"
    assert {"tiny", "manifest:abc"} <= set(task["tags"])
    values = {name: entry["value"] for name, entry in task["hyperparams"]["config"].items()}
    assert values == {"loss.l1_weight": "2.0", "model.hidden": "48", "seed": "3"}
    curves = offline_curves(session)
    assert {
        key: points for key, points in curves.items() if key[0] not in ("Summary", ":monitor:machine")
    } == EXPECTED
    files = {path.suffix for path in session.with_suffix("").rglob("*") if path.is_file()}
    assert {".wav", ".png", ".zip"} <= files
    assert [artifact["key"] for artifact in task["execution"]["artifacts"]] == ["bundle"]
    assert f"import_offline_session('{session}')" in said
    assert len(said.splitlines()) == 1


def test_a_failed_run_is_marked_failed(server: Any, tmp_path: Path) -> None:
    finish(start(tmp_path, server.environment, then="raise ValueError('no')"), code=1)
    assert server.only_task["status"] == "failed"
    assert server.curve("loss", "train") == EXPECTED["loss", "train"]


def test_a_killed_run_is_taken_up_again(server: Any, tmp_path: Path) -> None:
    """SIGKILL: what it had said arrives, the task is not left running; the same task goes on at the run's steps."""
    finish(
        start(tmp_path, server.environment, then="os.kill(os.getpid(), signal.SIGKILL)"), code=-signal.SIGKILL
    )
    wait_until(lambda: server.tasks and server.only_task["status"] == "stopped")
    assert server.curve("loss", "train") == EXPECTED["loss", "train"]
    wait_until(lambda: not list((tmp_path / "tracking" / "clearml").glob("messages-*")))
    first = server.only_task["id"]

    run(tmp_path, server.environment, steps="(20, 30)")
    assert server.only_task["id"] == first
    assert server.only_task["status"] == "completed"
    assert sorted(server.curve("loss", "train")) == [10, 20, 30], "iterations are not shifted"
    assert sorted(server.curve("PESQ", "noisy")) == [10, 20, 30]


def test_a_run_whose_children_are_killed_with_it_is_delivered(server: Any, tmp_path: Path) -> None:
    """So ends a worker of Ray, on Ctrl-C say: first its children, then itself."""
    die = "import psutil; [child.kill() for child in psutil.Process().children()]; os.kill(os.getpid(), signal.SIGKILL)"
    finish(start(tmp_path, server.environment, then=die), code=-signal.SIGKILL)
    wait_until(lambda: server.tasks and server.only_task["status"] == "stopped")
    wait_until(lambda: not list((tmp_path / "tracking" / "clearml").glob("messages-*")))
    assert server.curve("loss", "train") == EXPECTED["loss", "train"]


@pytest.mark.cluster
def test_an_interrupted_training_is_not_left_running(server: Any, small_corpus: Path, tmp_path: Path) -> None:
    command = ["jobs.train", "--data", str(small_corpus), "--storage", str(tmp_path), "--name", "cut"]
    job = subprocess.Popen(
        [sys.executable, "-m", *command, "--preset", "tiny", "--set", "training.max_steps=2000"],
        env={**os.environ, **server.environment, "CLEARML_CONFIG_FILE": str(tmp_path / "none.conf")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # Where the tests run in the background, Ctrl-C is ignored, and so it would be in all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    family: list[psutil.Process] = []
    try:
        deadline_s = time.monotonic() + 120
        while not (server.curve("loss", "train") or job.poll() is not None or time.monotonic() > deadline_s):
            time.sleep(0.05)
        family = psutil.Process(job.pid).children(recursive=True)
        job.send_signal(signal.SIGINT)
        assert job.wait(timeout=60) == 130
    finally:
        if job.poll() is None:
            for process in (*family, psutil.Process(job.pid)):
                with contextlib.suppress(psutil.Error):
                    process.kill()
    wait_until(lambda: server.only_task["status"] == "stopped")
    wait_until(lambda: not list((tmp_path / "cut" / "tracking" / "clearml").glob("messages-*")))


def test_a_broken_clearml_conf_is_told_and_the_messages_are_kept(server: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.conf").write_text('api { credentials { access_key: "a')
    _, said = run(tmp_path, {"CLEARML_CONFIG_FILE": str(tmp_path / "bad.conf")})
    assert "Failed parsing" in said
    assert said.strip() == clearml_notice(tmp_path / "tracking")
    folder = tmp_path / "tracking" / "clearml"
    assert str(folder / "clearml.log") in said
    assert "keeps what it should have heard" in said

    run(tmp_path, server.environment, steps="(30,)")  # with the settings repaired, a resume delivers all
    assert sorted(server.curve("loss", "train")) == [10, 20, 30]
    assert {path.name for path in folder.iterdir()} == {"clearml.log"}
    assert clearml_notice(tmp_path / "tracking") == ""


def test_a_delivering_process_that_just_dies_is_told(server: Any, tmp_path: Path) -> None:
    die = "os.killpg(tracker._clearml._delivery.group, signal.SIGKILL)"
    times, said = run(tmp_path, server.environment, then=die)
    assert times["closed"] < 5
    assert said.startswith("ClearML failed; ")
    assert said.strip() == clearml_notice(tmp_path / "tracking")
    assert list((tmp_path / "tracking" / "clearml").glob("messages-*"))


def test_a_certificate_of_one_s_own_is_taken_as_the_sdk_takes_it(tmp_path: Path) -> None:
    certificate, key = own_certificate(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), AnyLogin)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    conf = tmp_path / "clearml.conf"
    conf.write_text(
        f'api {{ api_server: "https://127.0.0.1:{server.server_port}", verify_certificate: false\n'
        '  credentials { access_key: "a", secret_key: "b" } }'
    )
    script = (
        "import os, sys\n"
        "from cluster.clearml_process import knock\n"
        "print(repr(knock()))\n"
        "os.environ['CLEARML_API_HOST_VERIFY_CERT'] = 'true'\n"
        "print(repr(knock()))\n"
        "os.environ['REQUESTS_CA_BUNDLE'] = sys.argv[1]\n"
        "print(repr(knock()))"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLEARML_")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(certificate)],
        env={**inherited, "CLEARML_CONFIG_FILE": str(conf)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    server.shutdown()
    server.server_close()
    told_no_check, checked, own_authority = done.stdout.splitlines()
    assert told_no_check == "''", done.stderr
    assert "CERTIFICATE_VERIFY_FAILED" in checked
    assert own_authority == "''"


class AnyLogin(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """Files of a certificate for 127.0.0.1 that nobody else has signed, and of its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now - day, now + day
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "own.crt", folder / "own.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files[1].write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    return files


@pytest.mark.cluster
def test_a_late_stop_of_a_killed_start_does_not_last(server: Any, tmp_path: Path) -> None:
    process = start(tmp_path, server.environment, then="sys.stdin.readline()")
    wait_until(lambda: bool(server.curve("loss", "train")))
    server.only_task["status"] = "stopped"
    process.stdin.write("\n")
    finish(process)
    assert server.only_task["status"] == "completed"
    assert len(server.models) == 1


@pytest.mark.cluster
def test_a_node_that_dies_loses_nothing(server: Any, tmp_path: Path) -> None:
    """The run and its delivering process die at once: the task stays running until the run is resumed."""
    die = "os.killpg(tracker._clearml._delivery.group, signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)"
    finish(start(tmp_path, server.environment, then=f"time.sleep(4); {die}"), code=-signal.SIGKILL)
    assert server.only_task["status"] == "in_progress"
    first = server.only_task["id"]
    server.events.clear()  # as if none of it had arrived

    run(tmp_path, server.environment, steps="(30,)")
    assert server.only_task["id"] == first
    assert server.only_task["status"] == "completed"
    assert sorted(server.curve("loss", "train")) == [10, 20, 30]
    assert 20 in server.media("example_0", "noisy")


def test_an_unreachable_server_falls_back_to_a_session_that_can_be_uploaded(
    server: Any, tmp_path: Path
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = {**server.environment, "CLEARML_API_HOST": f"http://127.0.0.1:{unused.getsockname()[1]}"}
    times, said = run(tmp_path, nowhere)
    assert times["took"] < 5
    assert times["closed"] < 15
    assert len(said.splitlines()) == 1
    assert "Connection refused" in said
    (session,) = offline_sessions(tmp_path)
    assert {key: value for key, value in offline_curves(session).items() if key in EXPECTED} == EXPECTED

    command = shlex.split(said[said.index("python -c") :])
    none = {"CLEARML_CONFIG_FILE": str(tmp_path / "none.conf")}
    uploaded = subprocess.run(
        [sys.executable, *command[1:]],
        env={**os.environ, **none, **server.environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert uploaded.returncode == 0, uploaded.stderr
    assert {key: server.curve(*key) for key in EXPECTED} == EXPECTED
    assert 20 in server.media("example_0", "noisy")
    assert server.only_task["status"] == "completed"


@pytest.mark.parametrize("fault", ["answers 500", "never answers", "fails after login"])
def test_a_broken_server_falls_back_too(server: Any, tmp_path: Path, fault: str) -> None:
    server.failing = 500 if fault == "answers 500" else 0
    server.hanging = fault == "never answers"
    if fault == "fails after login":
        server.tasks_create = lambda body: {}["missing"]
    times, said = run(tmp_path, server.environment)
    assert times["took"] < 5
    assert times["closed"] < 20
    (session,) = offline_sessions(tmp_path)
    assert {key: value for key, value in offline_curves(session).items() if key in EXPECTED} == EXPECTED
    assert str(session) in said


@pytest.mark.cluster
@pytest.mark.parametrize("fault", ["stops", "hangs"])
def test_a_server_lost_in_mid_run_loses_nothing(server: Any, tmp_path: Path, fault: str) -> None:
    process = start(tmp_path, server.environment, then="sys.stdin.readline()")
    wait_until(lambda: bool(server.curve("PESQ", "test")))
    first = server.only_task["id"]
    if fault == "hangs":
        server.hanging = True
    else:
        server.stop()
    process.stdin.write("\n")
    times, said = finish(process)
    assert times["closed"] < 35
    assert journal_steps(tmp_path, "val") == [10, 20]
    (session,) = offline_sessions(tmp_path)
    assert {key: value for key, value in offline_curves(session).items() if key in EXPECTED} == EXPECTED
    assert f"previous_task_id='{first}'" in said

    server.stop()
    with clearml_server.ClearMLServer(
        server.port
    ) as again:  # the server is back: a resume delivers what it missed
        again.tasks[first] = {**server.tasks[first], "status": "in_progress"}
        run(tmp_path, again.environment, steps="(30,)")
        assert sorted(again.curve("PESQ", "val")) == [10, 20, 30]
        assert again.only_task["id"] == first
        assert again.only_task["status"] == "completed"
    assert offline_sessions(tmp_path) == []


@pytest.mark.cluster
def test_a_server_that_fails_for_a_while_loses_nothing(server: Any, tmp_path: Path) -> None:
    server.failing, server.failing_call = 500, "events.add_batch"
    process = start(tmp_path, server.environment, then="sys.stdin.readline()")
    wait_until(lambda: any(b"PESQ" in body for body in server.refused))
    assert server.events == []
    server.failing = 0
    process.stdin.write("\n")
    finish(process)
    assert {key: server.curve(*key) for key in EXPECTED} == EXPECTED
    assert server.only_task["status"] == "completed"


def test_a_resumed_offline_run_is_one_session(tmp_path: Path) -> None:
    run(tmp_path, {}, mode="offline")
    run(tmp_path, {}, mode="offline", steps="(20, 30)")
    (session,) = offline_sessions(tmp_path)
    assert sorted(offline_curves(session)["PESQ", "val"]) == [10, 20, 30]
    assert len(list(session.with_suffix("").rglob("bundle.zip"))) == 1


@pytest.mark.cluster
def test_training_is_one_task_also_when_its_workers_are_killed(
    server: Any, small_corpus: Path, tmp_path: Path
) -> None:
    """jobs.train on two workers: rank 0 alone speaks, and the workers that take over go on with its task."""
    settings = ["training.max_steps=40", "training.validate_every_steps=10", "resources.num_workers=2"]
    command = ["jobs.train", "--data", str(small_corpus), "--storage", str(tmp_path), "--name", "cut"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    job = subprocess.Popen(
        [sys.executable, "-m", *command, "--preset", "tiny", *overrides],
        env={**os.environ, **server.environment, "CLEARML_CONFIG_FILE": str(tmp_path / "none.conf")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 120
    while not (server.curve("PESQ", "val") or job.poll() is not None or time.monotonic() > deadline_s):
        time.sleep(0.02)
    for process in psutil.Process(job.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()[:1]):
                process.kill()
    assert job.wait(timeout=200) == 0, job.stderr.read() if job.stderr else ""

    task = server.only_task
    assert server.statuses.count("in_progress") >= 2, "it was taken up again"
    assert task["status"] == "completed"
    tags = set(task["tags"])
    assert "tiny" in tags
    assert any(tag.startswith("manifest:") for tag in tags)
    flat = load_config("tiny", settings).flat()
    values = {name: entry["value"] for name, entry in task["hyperparams"]["config"].items()}
    assert values == {name: str(value) for name, value in flat.items()}
    for title in ("loss", "PESQ", "STOI", "SNR (dB)", "SI-SDR (dB)"):
        assert sorted(server.curve(title, "val")) == [10, 20, 30, 40], title
    for title in ("PESQ", "STOI", "SNR (dB)", "SI-SDR (dB)"):
        assert sorted(server.curve(title, "noisy")) == [10, 20, 30, 40], title
    assert sorted(server.media("example_0", "estimate")) == [10, 20, 30, 40]
    assert len(server.models) == 1
