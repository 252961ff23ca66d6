"""`python -m jobs.serve`: prints its address, serves, and leaves nothing behind when it is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch

from jobs import serve
from jobs.cli import main
from ww_models import build_model, save_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bundle")
    return save_bundle(folder / "tiny", build_model("gatewave", hidden=4, depth=2), licence="MIT")


def test_it_serves_until_it_is_told_to_end(bundle: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.serve", "--bundle", str(bundle), "--port", "0", "--cpus", "0.1"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        assert first.startswith("serving "), first + (process.stderr.read() if process.stderr else "")
        url = first.split(" at ")[1].split()[0]
        assert f"{url}/v1/audio/denoise" in second
        assert second.startswith("try: curl -F file=@")
        assert httpx.get(f"{url}/healthz", timeout=30).json() == {"status": "ok"}
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert not list(Path("/tmp").glob(f"ww-ray-{process.pid}-*")), "it left Ray's files behind"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz", timeout=5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bundle", "nowhere"], "nowhere does not exist"),
        (["--bundle", "{bundle}", "--port", "99999"], "port"),
        (["--bundle", "{bundle}", "--api-keys", "no-such-file"], "no-such-file"),
        (["--bundle", "{bundle}", "--allow-origin", "example.org"], "https://example.org"),
        (["--bundle", "{bundle}", "--port", "0", "--host", "203.0.113.7"], "cannot listen on 203.0.113.7"),
    ],
)
def test_wrong_use_is_one_line_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(serve, "connect", never)
    monkeypatch.setattr(sys, "argv", ["serve", *(argument.format(bundle=bundle) for argument in arguments)])
    with pytest.raises(SystemExit) as exit_info:
        main(serve.parser(), serve.run)
    said = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert said.startswith("error: ")
    assert words in said
    assert said.count("\n") == 1
