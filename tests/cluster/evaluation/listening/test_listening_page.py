"""The page in Chromium, driven by keys alone as a listener would; and its audio thread, sample by sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from matplotlib.image import imread

from cluster.evaluation.listening.answers import read_listening
from cluster.evaluation.listening.app import build_app
from cluster.evaluation.listening.design import ListeningTest, design_test
from cluster.evaluation.listening.source import open_source
from tests.cluster.evaluation.listening.made_reports import write_made_report
from tests.cluster.serving.browser import Page, browser
from tests.loopback import run_app

pytestmark = pytest.mark.cluster

FADE = 240  # samples of 5 ms at 48 kHz
SWITCHER = """(async () => {
  globalThis.sampleRate = 48000;
  globalThis.AudioWorkletProcessor = class { port = { postMessage() {} }; };
  globalThis.registerProcessor = (_, processor) => { globalThis.Switcher = processor; };
  await import("/page/worklet.js");
  globalThis.ramp = (sign) => Float32Array.from({ length: 48000 }, (_, i) => sign * (1000 + i));
  globalThis.make = () => {
    const node = new Switcher({ processorOptions: { sounds: [ramp(1), ramp(-1)] } });
    node.render = (blocks) => Array.from({ length: blocks }, () => {
      const block = new Float32Array(128);
      node.process([], [[block]]);
      return [...block];
    }).flat();
    return node;
  };
})()"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips so short that a test does not take long."""
    return write_made_report(tmp_path_factory.mktemp("listening") / "report", seconds=0.6)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser") / "browser") as tab:
        yield tab


class Listener:
    """Somebody at the page."""

    def __init__(self, tab: Page, host: str) -> None:
        self.tab, self._url = tab, f"http://{host}/"

    def sit_down(self, name: str) -> None:
        self.tab.open(self._url)
        self.tab.wait("document.body.dataset.ready && document.activeElement.id === 'listener'")
        self.tab.call("Input.insertText", text=name)
        self.tab.press("Enter")
        self.wait_for_title("Training")

    def text(self, element_id: str) -> str:
        return self.tab.run(f"document.getElementById({element_id!r}).textContent")

    def wait_for_title(self, title: str) -> None:
        here = "document.body.dataset.state === 'screen' && document.getElementById('title').textContent"
        self.tab.wait(
            f"{here} === {title!r} && !document.getElementById('status').textContent.startsWith('Load')"
        )

    def hear(self, key: str, name: str) -> None:
        self.tab.press(key)
        self.tab.wait(f"document.getElementById('hear-{name}').parentElement.dataset.heard", timeout_s=120)

    def hear_all(self) -> None:
        for key, name in zip("rab345", ("reference", *"ABCDE"), strict=True):
            self.hear(key, name)


def test_a_whole_test_by_keyboard(tab: Page, report: Path, tmp_path: Path) -> None:
    test = design_test(open_source(report), num_clips=2)
    path = tmp_path / "answers.jsonl"
    tab.requests.clear()
    with run_app(build_app(test, path)) as host:
        anna = Listener(tab, host)
        anna.sit_down("anna")
        tab.press("Enter")
        assert anna.text("status") == "Listen first, at least a second, to reference, A, B, C, D, E."
        anna.hear_all()
        tab.press("Enter")
        anna.wait_for_title("Clip 1 of 2")
        _rate_first_clip(anna)
        assert not path.exists(), "stored before the listener said so"
        tab.press("Enter")
        anna.wait_for_title("Clip 2 of 2")
        tab.press("p")
        anna.wait_for_title("Clip 1 of 2")
        assert tab.run("document.getElementById('rate-A').value") == "100"
        assert tab.run("document.getElementById('comment').value") == "np a"
        # Another day: a new page, the same name.
        anna.sit_down(" anna ")
        assert anna.text("status") == "Welcome back: 1 of 2 clips are answered."
        tab.press("n")
        anna.wait_for_title("Clip 2 of 2")
        anna.hear_all()
        for key in "abcde":
            tab.press(key)
            tab.press("ArrowRight")
        tab.press("n")
        tab.wait("document.body.dataset.state === 'finished'")
        tab.run("0")
        assert {urlsplit(url).netloc for url in tab.requests if not url.startswith("blob:")} == {host}
    assert tab.complaints == []
    _check_stored(path, test)


def _rate_first_clip(anna: Listener) -> None:
    tab = anna.tab
    anna.hear_all()
    tab.press("r")
    tab.press("ArrowLeft")
    assert "no rating" in anna.text("status")
    for key, press in (("a", "End"), ("b", "Home"), ("3", "ArrowRight"), ("d", "ArrowDown")):
        tab.press(key)
        tab.press(press)
    tab.press("Enter")
    assert anna.text("status") == "Rate first E."
    tab.press("e")
    for _ in range(3):
        tab.press("ArrowLeft")
    assert anna.text("play") == "Pause"
    tab.press(" ")
    assert anna.text("play") == "Play"
    tab.press(".")
    tab.press("Escape")
    tab.run("document.getElementById('comment').focus()")
    tab.call("Input.insertText", text="np a")
    for key in "np":  # letters, not commands, where somebody writes
        tab.press(key)
    assert anna.text("title") == "Clip 1 of 2"
    tab.run("document.activeElement.blur()")


def _check_stored(path: Path, test: ListeningTest) -> None:
    first, second = read_listening(path).answers
    screens = test.screens("anna")
    assert (first.clip, second.clip) == tuple(screen.clip.mixture_id for screen in screens[1:])
    expected = dict(zip(screens[1].order, (100, 0, 51, 49, 47), strict=True))
    assert first.ratings == expected
    assert first.comment == "np a"
    assert set(first.plays) == {"reference", *test.stimuli}
    assert min(first.plays.values()) >= 1
    assert 3 < first.seconds < 600
    assert set(second.ratings.values()) == {51}
    assert first.session != second.session
    assert first.listener == second.listener == "anna"


def test_a_preference_by_keyboard(tab: Page, report: Path, tmp_path: Path) -> None:
    test = design_test(open_source(report), mode="ab", num_clips=2)
    path = tmp_path / "answers.jsonl"
    with run_app(build_app(test, path)) as host:
        ben = Listener(tab, host)
        ben.sit_down("ben")
        _check_that_a_marked_region_repeats(ben)
        for title, key in (("Training", ""), ("Clip 1 of 2", "ArrowRight"), ("Clip 2 of 2", "ArrowDown")):
            ben.wait_for_title(title)
            ben.hear("a", "A")
            ben.hear("2", "B")
            if key:
                tab.press("Enter")
                assert ben.text("status").startswith("Say first")
                tab.press(key)
            tab.press("Enter")
        tab.wait("document.body.dataset.state === 'finished'")
    first, second = read_listening(path).answers
    assert first.preferred == test.screens("ben")[1].order[1]
    assert second.preferred is None
    assert tab.complaints == []


def _check_that_a_marked_region_repeats(listener: Listener) -> None:
    tab = listener.tab
    box = tab.run(
        "(({x, y, width}) => [x, y, width])(document.getElementById('picture').getBoundingClientRect())"
    )
    for kind, part in (("mousePressed", 0.25), ("mouseMoved", 0.5), ("mouseReleased", 0.75)):
        x, y = box[0] + part * box[2], box[1] + 20
        tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    listener.hear("b", "B")
    for _ in range(30):
        assert 0.1 <= float(listener.text("time").split()[0]) <= 0.5, "it left the region, a half of 0.6 s"
    tab.press("Escape")
    tab.wait("Number(document.getElementById('time').textContent.split(' ')[0]) > 0.5")


def test_it_fits_and_is_readable(tab: Page, report: Path, tmp_path: Path) -> None:
    test = design_test(open_source(report), mid_anchor=True)
    with run_app(build_app(test, tmp_path / "answers.jsonl")) as host:
        for width, dark in ((1280, False), (390, False), (390, True), (1280, True)):
            tab.look(width=width, dark=dark)
            Listener(tab, host).sit_down("anna")
            assert tab.run("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
            pixels = imread(tab.screenshot(tmp_path / "page.png"))[..., :3].mean(axis=-1)
            margin = float(np.median(pixels[:, :8]))
            assert margin < 0.2 if dark else margin > 0.8
            assert float(np.ptp(pixels)) > 0.6, "hardly any contrast: nothing was drawn"
    tab.look()


# The audio thread


@pytest.fixture(scope="module")
def thread(tab: Page, report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    app = build_app(design_test(open_source(report)), tmp_path_factory.mktemp("answers") / "a.jsonl")
    with run_app(app) as host:
        tab.open(f"http://{host}/")
        tab.run(SWITCHER)
        yield tab


def heard(page: Page, script: str) -> np.ndarray:
    """What a script returns as an array."""
    return np.array(json.loads(page.run(f"(async () => {{ {script} }})()")))


def test_a_switch_neither_skips_nor_repeats_a_sample_and_does_not_click(thread: Page) -> None:
    played = heard(
        thread,
        """const s = make(); s.receive({playing: true}); const parts = [s.render(10)];
        for (const chosen of [1, 0, 1]) { s.receive({chosen}); parts.push(s.render(10)); }
        return JSON.stringify(parts.flat());""",
    )
    place = 1000 + np.arange(len(played))
    for start, sign in ((0, 1), (1280, -1), (2560, 1), (3840, -1)):
        settled = slice(start + FADE + 1, start + 1280)
        np.testing.assert_array_equal(played[settled], sign * place[settled])
    assert np.abs(played).max() <= place.max()
    assert np.abs(np.diff(played)).max() < 2.5 * place.max() / FADE, "a click"


def test_a_pause_goes_on_where_it_stopped_fade_included(thread: Page) -> None:
    played = heard(
        thread,
        """const s = make(); s.receive({playing: true}); const first = s.render(10);
        s.receive({playing: false}); const faded = s.render(10); s.receive({playing: true});
        return JSON.stringify([...first, ...faded, ...s.render(10)]);""",
    )
    assert not played[1280 + FADE : 2560].any()
    num_heard = np.count_nonzero(played[:2560])
    assert 1280 + FADE - 1 <= num_heard <= 1280 + FADE + 1
    settled = np.arange(2560 + FADE + 1, len(played))
    np.testing.assert_array_equal(played[settled], 1000 + num_heard + settled - 2560)
    assert np.abs(np.diff(played)).max() < 2.5 * np.abs(played).max() / FADE, "a click"


def test_a_region_repeats_without_clicks_and_counts_what_was_heard(thread: Page) -> None:
    result = heard(
        thread,
        """const s = make(); s.receive({playing: true}); s.render(5);
        s.receive({begin: 10000, end: 12000}); s.render(4); const played = s.render(100);
        return JSON.stringify([...played, ...s.heard, s.position]);""",
    )
    played, counts, position = result[:-3], result[-3:-1], result[-1]
    assert 10_000 <= position < 12_000
    assert counts[1] == 0
    assert abs(counts[0] - 109 * 128) <= 1
    loud = played[played > 0]
    assert loud.max() < 13_000
    assert np.abs(np.diff(played)).max() < 1.5 * 13_000 / FADE, "a click"
    quiet = np.flatnonzero(played < 100)
    assert np.diff(quiet[np.r_[True, np.diff(quiet) > 100]]).tolist() == [2000] * 5


def test_the_browsers_own_audio_thread_switches_at_the_same_sample(thread: Page) -> None:
    """Rendered offline by the real AudioWorklet: a message in the middle, and no sample is missing or doubled."""
    played = heard(
        thread,
        """const context = new OfflineAudioContext(1, 24000, 48000);
        await context.audioWorklet.addModule("/page/worklet.js");
        const node = new AudioWorkletNode(context, "switcher", { numberOfInputs: 0, outputChannelCount: [1],
            processorOptions: { sounds: [ramp(1e-5), ramp(-1e-5)] } });
        node.connect(context.destination);
        node.port.postMessage({ playing: true });
        await new Promise((resolve) => setTimeout(resolve, 1500));
        context.suspend(0.25).then(async () => {
            node.port.postMessage({ chosen: 1 });
            await new Promise((resolve) => setTimeout(resolve, 1500));
            context.resume();
        });
        const buffer = await context.startRendering();
        return JSON.stringify([...buffer.getChannelData(0)]);""",
    )
    first = int(np.flatnonzero(played)[0])
    place = 1e-5 * (1000 + np.arange(len(played)) - first)
    switch = int(np.flatnonzero(np.diff(np.sign(played[first:])))[0]) + first
    assert 12_000 <= switch < 12_000 + 2 * FADE + 1024
    np.testing.assert_allclose(played[first + FADE + 1 : 11_900], place[first + FADE + 1 : 11_900], rtol=1e-5)
    np.testing.assert_allclose(played[switch + FADE :], -place[switch + FADE :], rtol=1e-5)
    assert np.abs(np.diff(played)).max() < 2.5 * place.max() / FADE, "a click"
