"""The page's audio thread: its processors are called here as the browser calls them, block by block."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from tests.cluster.serving.browser import Page, browser
from tests.cluster.serving.conftest import RunApp
from tests.cluster.serving.web.test_page import page_app

PROCESSORS = """(async () => {
  globalThis.sampleRate = 48000;
  globalThis.AudioWorkletProcessor = class { port = { sent: [], postMessage(m) { this.sent.push(m); } }; };
  globalThis.processors = {};
  globalThis.registerProcessor = (name, processor) => { processors[name] = processor; };
  await import("/page/audio/worklet.js");
  globalThis.playout = (options) => {
    const usual = { channels: 1, live: false, targetFrames: 0 };
    const node = new processors.playout({ processorOptions: { ...usual, ...options } });
    node.pushed = 0;
    // The noisy side counts up, the denoised one down: a sample tells whose it is, and which.
    node.push = (n) => {
      const noisy = Int16Array.from({ length: n }, (_, i) => 1000 + node.pushed + i);
      node.pushed += n;
      node.receive({ type: "push", noisy, denoised: noisy.map((x) => -x) });
    };
    node.render = (blocks) => Array.from({ length: blocks }, () => {
      const block = new Float32Array(128);
      node.process([], [[block]]);
      return [...block].map((x) => x * 32768);
    }).flat();
    return node;
  };
})()"""


@pytest.fixture(scope="module")
def page(run_app: RunApp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with run_app(page_app()) as host, browser(tmp_path_factory.mktemp("worklet") / "browser") as page:
        page.open(f"http://{host}/")
        page.run(PROCESSORS)
        yield page


def play(page: Page, script: str) -> list[float]:
    """What a script returns as JSON."""
    return json.loads(page.run(f"(() => {{ {script} }})()"))


@pytest.mark.cluster
def test_switching_sides_keeps_the_place_and_does_not_click(page: Page) -> None:
    heard = np.array(
        play(
            page,
            """const p = playout({}); p.push(9600); p.receive({type: "play", value: true});
            const first = p.render(10);
            p.receive({type: "mix", value: 0}); const second = p.render(10);
            p.receive({type: "mix", value: 1}); return JSON.stringify([...first, ...second, ...p.render(10)]);""",
        )
    )
    ramp = 1000 + np.arange(len(heard))
    fade = 240  # 5 ms
    for start, sign in ((0, -1), (1280, 1), (2560, -1)):
        settled = slice(start + fade + 1, start + 1280)
        np.testing.assert_allclose(heard[settled], sign * ramp[settled], rtol=1e-5)
    assert np.abs(np.diff(heard)).max() < 2.5 * ramp.max() / fade, "a click"


@pytest.mark.cluster
def test_late_sound_is_counted_and_what_gathers_is_left_out(page: Page) -> None:
    underruns, position, excess = play(
        page,
        """const p = playout({live: true, targetFrames: 1920}); p.push(2400); p.render(40);
        const { underruns, position } = p;  // all was played, no more had come
        for (let i = 0; i < 1000; i++) { p.push(128); p.render(1); if (i === 100) p.push(9600); }
        return JSON.stringify([underruns, position, p.buffered - p.targetFrames]);""",
    )
    assert (underruns, position) == (1, 2400)
    assert excess < 0.02 * 48_000, "a burst of sound would delay the stream for ever"


@pytest.mark.cluster
def test_a_recording_is_played_to_its_end_from_where_one_wants(page: Page) -> None:
    ended, heard = play(
        page,
        """const p = playout({targetFrames: 4800}); p.push(9600); p.receive({type: "play", value: true});
        p.render(20); p.receive({type: "seek", value: 500}); p.pushed = 500; p.push(1000);
        p.receive({type: "end"}); p.port.sent.length = 0; const heard = p.render(20);
        return JSON.stringify([p.port.sent.filter((m) => m.ended).map((m) => m.position), heard]);""",
    )
    assert ended == [1500]
    np.testing.assert_allclose(heard[300:1000], -(1500 + np.arange(300, 1000)), rtol=1e-5)
    assert not np.any(heard[1000:])
