"""The report as a browser shows it: without a network, light and dark, wide and narrow; its player and its scatter."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from cluster.evaluation.report import write_report
from cluster.evaluation.scores import CLEAN, NOISY
from tests.cluster.evaluation.made_scores import make_report
from tests.cluster.serving.browser import Page, browser

pytestmark = pytest.mark.cluster

RATE, SECONDS = 16_000, 3
FADE = 80  # samples of 5 ms
NUM = RATE * SECONDS
PLAY, TIME = "#typical-1 .play", "document.querySelector('#typical-1 output').textContent"


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its typical clip is a ramp, so that each sample says where it stands; each side is another multiple of it."""
    report = make_report(rival_gain=0.2)
    ramp_T = np.linspace(0.1, 0.4, NUM).astype(np.float32)
    signals = {NOISY: ramp_T, "<a>": -ramp_T, "b": ramp_T / 2, CLEAN: 2 * ramp_T}
    example = dataclasses.replace(report.examples[0], signals=signals, duration_s=float(SECONDS))
    return write_report(dataclasses.replace(report, examples=(example,)), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def tab(report_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser") / "browser") as tab:
        tab.look()
        tab.open(report_file.as_uri())
        yield tab
        assert tab.complaints == []
        assert {url.partition(":")[0] for url in tab.requests} <= {"file", "data", "blob"}


def test_everything_in_it_loads(tab: Page) -> None:
    assert tab.run("document.images.length") == 4 + 6 * 3
    assert tab.run("[...document.images].every((image) => image.complete && image.naturalWidth > 50)")
    assert tab.run("performance.getEntriesByType('resource').every(({ name }) => !name.startsWith('http'))")


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_is_readable(tab: Page, tmp_path: Path, dark: bool) -> None:
    for width in (390, 1280):
        tab.look(width=width, dark=dark)
        tab.run("for (const details of document.querySelectorAll('details')) details.open = true")
        assert tab.run("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        plot = tab.run("document.querySelector('.plot svg').getBoundingClientRect().width")
        assert 200 < plot < width
    pixels = imread(tab.screenshot(tmp_path / "page.png"))[..., :3].mean(axis=-1)
    margin = float(np.median(pixels[:, :8]))
    assert margin < 0.2 if dark else margin > 0.8
    # WCAG 2.1: 4.5 for text, 3 for what is drawn.
    for name, least in (("ink", 4.5), ("muted", 4.5), ("good", 4.5), ("bad", 4.5), ("series-1", 4.5)):
        assert contrast(tab, name) > least, name
    assert all(contrast(tab, f"series-{n}") > 3 for n in range(1, 7))
    tab.look()


def contrast(tab: Page, name: str) -> float:
    """Of a colour of the page on its cards and its background, the lesser one."""
    script = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
    lights = []
    for each in (name, "card", "page"):
        color = tab.run(script.format(each)).removeprefix("#")
        rgb = np.array([int(color[place : place + 2], 16) for place in (0, 2, 4)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return min(max(lights[0] / other, other / lights[0]) for other in lights[1:])


def test_a_switch_keeps_the_sample_and_does_not_click(tab: Page) -> None:
    """The page's own sounds through its own audio thread, rendered offline, a switch in the middle."""
    found = json.loads(
        tab.run(
            """(async () => {
        const context = new OfflineAudioContext(1, 24000, 16000);
        const code = encodeURIComponent(document.getElementById("worklet").textContent);
        await context.audioWorklet.addModule(`data:text/javascript,${code}`);
        const decode = async ({ src }) => context.decodeAudioData(await (await fetch(src)).arrayBuffer());
        const audios = [...document.querySelectorAll("#typical-1 audio")].slice(0, 2);
        const sounds = (await Promise.all(audios.map(decode))).map((buffer) => buffer.getChannelData(0));
        const node = new AudioWorkletNode(context, "switcher", { numberOfInputs: 0, outputChannelCount: [1],
            processorOptions: { sounds } });
        node.connect(context.destination);
        node.port.postMessage({ playing: true });
        await new Promise((resolve) => setTimeout(resolve, 1500));
        context.suspend(0.64).then(async () => {
            node.port.postMessage({ chosen: 1 });
            await new Promise((resolve) => setTimeout(resolve, 1500));
            context.resume();
        });
        const played = (await context.startRendering()).getChannelData(0);
        return JSON.stringify([[...sounds[0]], [...sounds[1]], [...played]]);
    })()"""
        )
    )
    noisy_T, enhanced_T, played_T = (np.array(each) for each in found)
    np.testing.assert_allclose(noisy_T, np.linspace(0.1, 0.4, NUM), atol=1e-4)  # FLAC lost nothing
    np.testing.assert_allclose(enhanced_T, -noisy_T, atol=1e-4)
    first = int(np.flatnonzero(played_T)[0])
    at = np.arange(len(played_T)) - first
    switch = int(np.flatnonzero(played_T < 0)[0])
    settled = slice(first + FADE + 1, switch - FADE)
    np.testing.assert_allclose(played_T[settled], noisy_T[at[settled]], atol=1e-6)
    np.testing.assert_allclose(played_T[switch + FADE :], enhanced_T[at[switch + FADE :]], atol=1e-6)
    assert np.abs(np.diff(played_T)).max() < 2.5 * 0.4 / FADE, "a click"


def test_buttons_pictures_and_keys_choose_what_is_heard(tab: Page) -> None:
    tab.run(
        """{ const Node = AudioWorkletNode; window.nodes = 0; window.AudioWorkletNode = class extends Node {
        constructor(...given) { super(...given); window.nodes += 1; } }; }"""
    )
    pressed = (
        "[...document.querySelectorAll('#typical-1 .side button')].map((b) => b.ariaPressed).indexOf('true')"
    )
    tab.click("#typical-1 .side:nth-child(2) button")
    tab.wait(f"!{TIME}.startsWith('0.0')")
    assert tab.run(pressed) == 1
    for key, chosen in (("1", 0), ("4", 3), ("2", 1)):
        tab.press(key)
        assert tab.run(pressed) == chosen
    assert tab.run("window.nodes") == 1, "a switch that begins anew could not keep the place"
    tab.press(" ")
    tab.wait(f"document.querySelector({PLAY!r}).textContent === 'Play'")
    tab.click("#typical-1 .side:nth-child(3) .track")  # the middle of the picture is the middle of the clip
    tab.wait(f"{TIME}.startsWith('1.') || {TIME}.startsWith('2.')")
    assert tab.run(pressed) == 2
    tab.click("#worst-1 .play")
    tab.wait("document.querySelector('#worst-1 .play').textContent === 'Pause'")
    assert tab.run(f"document.querySelector({PLAY!r}).textContent") == "Play", "two clips at once"
    tab.click("#worst-1 .play")
    assert tab.run("[...document.querySelectorAll('audio')].every((audio) => audio.hidden)")


def test_two_systems_clip_by_clip(tab: Page) -> None:
    said = "document.querySelector('#scatter output').textContent"
    choose = """((name, value) => {{ const select = document.querySelector(`#scatter [name=${{name}}]`);
        select.value = value; select.onchange(); }})({!r}, {!r})"""
    assert tab.run("document.querySelectorAll('#scatter .dots circle').length") == 20
    assert tab.run(said) == "<a> is better in 20 of 20 clips, b in 0."
    tab.run(choose.format("across", "noisy"))
    tab.run(choose.format("measure", "1"))
    assert tab.run(said) == "<a> is better in 20 of 20 clips, noisy in 0."
    tab.click("#scatter .dots circle:nth-child(1)")
    least = tab.run(said)
    assert least.startswith("test-000")
    assert ": SI-SDR dB " in least
    tab.run("document.querySelector('#scatter .plot svg').focus()")
    tab.press("End")
    most = tab.run(said)
    assert most != least
    gains = [float(text.split("), ")[-1].split(".")[0]) for text in (least, most)]
    assert gains[0] <= gains[1]
    tab.press("Home")
    assert tab.run(said) == least
    # The worst clip by SI-SDR is one that can be heard.
    tab.run("document.getElementById('worst-1').open = false")
    tab.click("#scatter output a")
    assert tab.run("document.getElementById('worst-1').open")


def test_without_scripts_there_is_a_picture_and_the_browsers_player(tab: Page, report_file: Path) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.call("Page.navigate", url=report_file.as_uri())
        tab.wait("document.readyState === 'complete' && document.querySelectorAll('audio').length > 3")
        seen = "document.querySelector({!r}).checkVisibility()"
        assert tab.run(seen.format("#typical-1 audio"))
        assert tab.run(seen.format("#scatter .plot svg[aria-label^='PESQ of <a> over that of b']"))
        assert not tab.run(seen.format("#scatter select"))
        assert not tab.run(seen.format(PLAY))
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
