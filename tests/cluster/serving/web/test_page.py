"""The live page in Chromium, driven as a person would, against the real WebSocket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile as sf
from fastapi import FastAPI
from matplotlib.image import imread

from cluster.enhancement import enhance_audio
from cluster.serving.auth import read_keys
from cluster.serving.config import LiveConfig, ServingConfig
from cluster.serving.models import ServedModels
from cluster.serving.web.app import build_app
from cluster.serving.web.error_replies import install_error_handlers
from cluster.serving.web.observability import RequestLog
from cluster.serving.web.page import FOLDER, add_page
from tests.cluster.serving.browser import Page, browser, wait_for
from tests.cluster.serving.conftest import RunApp
from tests.conftest import speech_like
from ww_models import load_bundle

RATE = 16_000
KEY = "a-key-of-the-tests"
TWO_STREAMS = LiveConfig(max_streams=2)
LSB = 1 / 32768  # of 16 bit


def noisy_speech(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    return speech_like(rng, seconds) + 0.02 * rng.standard_normal(int(seconds * RATE))


def page_app() -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(RequestLog, send_id=True)
    add_page(app)
    return app


@pytest.fixture(scope="module")
def models(bundle: Path) -> ServedModels:
    return ServedModels([bundle])


@pytest.fixture(scope="module")
def host(run_app: RunApp, models: ServedModels) -> Iterator[str]:
    with run_app(build_app(models, ServingConfig(live=TWO_STREAMS))) as host:
        yield host


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """noisy.wav, which the browser takes for the microphone, too, and the browser's own folder."""
    folder = tmp_path_factory.mktemp("page")
    sf.write(folder / "noisy.wav", noisy_speech(4.0), RATE, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def tab(folder: Path) -> Iterator[Page]:
    microphone = f"--use-file-for-fake-audio-capture={folder / 'noisy.wav'}"
    with browser(folder / "browser", microphone) as tab:
        yield tab


@pytest.fixture
def page(tab: Page, host: str) -> Iterator[Page]:
    """The page anew. At the end it must have asked nobody but its server, and complained of nothing."""
    tab.requests.clear()
    tab.complaints.clear()
    tab.look()
    tab.open(f"http://{host}/")
    yield tab
    tab.run("0")  # events that are still on their way
    assert {urlsplit(url).netloc for url in tab.requests if not url.startswith("blob:")} == {host}
    assert tab.complaints == []


def downloaded(page: Page, folder: Path) -> tuple[np.ndarray, int]:
    """Presses Download: (T, C) int16 and the rate."""
    downloads = folder / "browser" / "downloads"
    for old in downloads.iterdir():
        old.unlink()
    page.click("#download")
    path = wait_for(lambda: next(downloads.glob("*.wav"), None), "the download")
    return sf.read(path, dtype="int16", always_2d=True)


def set_strength(page: Page, percent: int) -> None:
    slider = "document.getElementById('strength')"
    page.run(f"{slider}.value = {percent}; {slider}.dispatchEvent(new Event('input'))")


def text(page: Page, element_id: str) -> str:
    return page.run(f"document.getElementById({element_id!r}).textContent")


# Without a browser


def test_files_come_with_their_types_and_nothing_from_elsewhere(run_app: RunApp) -> None:
    app = page_app()
    with run_app(app) as host, httpx.Client(base_url=f"http://{host}") as client:
        index = client.get("/")
        linked = re.findall(r'(?:href|src)="([^"#]+)"', index.text)
        modules = [f"page/{path.relative_to(FOLDER)}" for path in FOLDER.rglob("*.js")]
        assert "page/audio/worklet.js" in modules
        assert {"page/page.js", "page/style.css"} <= set(linked)
        for name in {*linked, *modules}:
            reply = client.get(name)
            assert reply.status_code == 200, name
            assert reply.headers["content-type"].split(";")[0] in {
                "text/css",
                "text/javascript",
                "image/svg+xml",
            }
            assert reply.headers["x-content-type-options"] == "nosniff"
            foreign = set(re.findall(r"\w+://[\w.]+", reply.text)) - {"http://www.w3.org"}
            assert not foreign, name
        policy = index.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<script(?![^>]*src=)|<style|\s(style|on\w+)=", index.text)
        for outside in ("..%2Fconfig.py", "audio/..%2F..%2Fconfig.py", "%2Fetc%2Fpasswd", "audio", ""):
            assert client.get(f"/page/{outside}").status_code == 404, outside


# Files


@pytest.mark.cluster
def test_a_file_comes_back_as_the_whole_clip_output(page: Page, folder: Path, bundle: Path) -> None:
    page.drop_file(folder / "noisy.wav")
    page.wait_for_state("ready")
    assert "16 kHz, mono" in text(page, "status")
    page.click("#at-once")
    page.wait_for_state("finished")
    assert text(page, "load").endswith("% of a core"), (
        "a clip that is done within a second has its figures, too"
    )
    assert text(page, "processing").endswith("ms")
    noisy_TC, _ = sf.read(folder / "noisy.wav", dtype="float32", always_2d=True)
    expected_TC = enhance_audio(load_bundle(bundle), noisy_TC, RATE)
    assert np.abs(expected_TC - noisy_TC).max() > 0.02, "the model does nothing: nothing would be compared"
    result_TC, rate = downloaded(page, folder)
    assert rate == RATE
    np.testing.assert_allclose(result_TC * LSB, expected_TC, atol=1.5 * LSB)
    set_strength(page, 50)
    half_TC, _ = downloaded(page, folder)
    np.testing.assert_allclose(half_TC * LSB, (expected_TC + noisy_TC) / 2, atol=1.5 * LSB)
    field = "document.getElementById('max-attenuation')"
    assert page.run(f"{field}.value") == "6"
    page.run(f"{field}.value = 20; {field}.dispatchEvent(new Event('input'))")
    assert text(page, "strength-value") == "90 %"
    tenth_TC, _ = downloaded(page, folder)
    np.testing.assert_allclose(tenth_TC * LSB, 0.9 * expected_TC + 0.1 * noisy_TC, atol=1.5 * LSB)
    drawn = "new Set(document.getElementById({!r}).getContext('2d').getImageData(0, 0, 800, 256).data).size"
    for side in ("noisy", "denoised"):
        assert page.run(drawn.format(side)) > 50, f"the {side} picture is empty"


@pytest.mark.cluster
def test_stereo_of_another_rate_is_listened_to_and_then_hurried(page: Page, folder: Path) -> None:
    stereo_TC = np.stack([noisy_speech(5.0)[: 4 * RATE], noisy_speech(4.0)], axis=1)
    sf.write(folder / "stereo.flac", stereo_TC, 44_100, subtype="PCM_16")
    page.choose_file("#file", folder / "stereo.flac")
    page.wait_for_state("ready")
    page.click("#listen")
    page.wait_for_state("live")
    page.wait("Number(document.getElementById('position').value) > 0.2")
    assert page.run("document.body.dataset.state") == "live", "it was sent at once, not while it is heard"
    page.click("#at-once")
    page.wait_for_state("finished")
    set_strength(page, 0)
    result_TC, rate = downloaded(page, folder)
    assert rate == 44_100
    assert np.array_equal(result_TC, sf.read(folder / "stereo.flac", dtype="int16", always_2d=True)[0])


@pytest.mark.cluster
def test_what_goes_wrong_is_said_with_what_to_do(page: Page, folder: Path, host: str) -> None:
    (folder / "text.wav").write_text("no sound", encoding="utf-8")
    page.choose_file("#file", folder / "text.wav")
    page.wait("document.body.dataset.state === 'error'")
    assert "cannot read this file as sound. Choose a WAV" in text(page, "problem")
    page.run(f"window.other = new WebSocket('ws://{host}/v1/audio/denoise/stream?channels=2')")
    page.run("new Promise((done) => { other.onmessage = done; })")  # it holds both streams
    page.choose_file("#file", folder / "noisy.wav")
    page.wait_for_state("ready")
    page.click("#at-once")
    page.wait("document.body.dataset.state === 'error'")
    assert re.search(r"as many streams as it can. Try again in \d+ s", text(page, "problem"))
    page.run('new Promise((done) => { other.onclose = done; other.send(\'{"type": "close"}\'); })')


# The microphone


@pytest.mark.cluster
def test_the_keyboard_alone_starts_switches_and_stops(page: Page, folder: Path) -> None:
    page.tab_to("use-microphone")
    page.press("Enter")
    page.wait_for_state("live")
    page.wait("document.getElementById('delay').textContent !== '–'")
    page.wait("document.getElementById('load').textContent !== '–'")
    while page.run("document.activeElement.name") != "side":
        page.press("Tab")
    page.press("ArrowLeft")
    assert page.run("document.body.dataset.side") == "noisy"
    page.press("ArrowRight")
    assert page.run("document.body.dataset.side") == "denoised"
    page.tab_to("strength")
    page.press("ArrowLeft")
    assert text(page, "strength-value") == "99 %"
    page.wait("document.getElementById('timer').textContent >= '0:03'")
    delay_ms = int(text(page, "delay").split()[0])
    latency_ms = float(text(page, "latency").split()[0])
    assert latency_ms < delay_ms
    page.tab_to("stop")
    page.press(" ")
    page.wait_for_state("finished")
    assert page.run("document.activeElement.id") == "play"
    page.press("Enter")
    page.wait("Number(document.getElementById('position').value) > 0.3")
    page.press("Enter")
    assert text(page, "play") == "Play"
    set_strength(page, 0)
    noisy_TC, rate = downloaded(page, folder)
    set_strength(page, 100)
    denoised_TC, _ = downloaded(page, folder)
    assert len(noisy_TC) == len(denoised_TC) > 3 * rate
    assert np.abs(noisy_TC).max() > 1000, "the microphone was not heard"
    lag, _ = strongest_lag(noisy_TC[:, 0] * LSB, denoised_TC[:, 0] * LSB)
    assert abs(lag) <= rate // RATE, "both sides are not of one time"


def strongest_lag(first_T: np.ndarray, second_T: np.ndarray) -> tuple[int, float]:
    """By how many samples the second one comes later, and how strongly both agree there."""
    size = 2 * len(first_T)
    product = np.fft.rfft(second_T, size) * np.conj(np.fft.rfft(first_T, size))
    correlation = np.abs(np.fft.irfft(product, size))
    best = int(correlation.argmax())
    return (best if best < size // 2 else best - size), float(correlation[best])


# Keys, colours, widths


@pytest.mark.cluster
def test_a_key_is_asked_for_where_the_server_does(
    tab: Page, run_app: RunApp, models: ServedModels, folder: Path
) -> None:
    keys = read_keys(None, {"WW_API_KEYS": f"me {KEY}"})
    shown = "document.getElementById('key').checkVisibility()"
    with run_app(build_app(models, ServingConfig(live=TWO_STREAMS, api_keys=keys))) as host:
        tab.look()
        tab.open(f"http://{host}/")
        assert not tab.run(shown)
        tab.choose_file("#file", folder / "noisy.wav")
        tab.wait_for_state("ready")
        tab.click("#at-once")
        tab.wait(shown)
        assert "asks for an API key" in text(tab, "problem")
        assert tab.run("document.activeElement.id") == "key"
        tab.call("Input.insertText", text="not-the-right-one")
        tab.press("Enter")
        tab.wait("document.getElementById('problem').textContent.includes('not valid')")
        tab.run("document.getElementById('key').select()")
        tab.call("Input.insertText", text=KEY)
        tab.press("Enter")
        tab.wait_for_state("finished")
        assert not tab.run(shown)


@pytest.mark.cluster
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_is_readable(page: Page, folder: Path, tmp_path: Path, width: int, dark: bool) -> None:
    page.look(width=width, dark=dark)
    page.choose_file("#file", folder / "noisy.wav")
    page.wait_for_state("ready")
    page.click("#at-once")
    page.wait_for_state("finished")
    assert page.run("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    pixels = imread(page.screenshot(tmp_path / "page.png"))[..., :3].mean(axis=-1)
    margin = float(np.median(pixels[:, :8]))
    assert margin < 0.2 if dark else margin > 0.8
    assert float(np.ptp(pixels)) > 0.6, "hardly any contrast: nothing was drawn"
