"""The report as a browser shows it, light and dark: without a network, without an error, with pictures and sound."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from cluster.evaluation.report import write_report
from tests.cluster.chromium import chromium
from tests.cluster.evaluation.made_scores import make_report


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_report(rival_gain=0.2), tmp_path_factory.mktemp("report"))


def browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = chromium(profile, "--window-size=1100,2400", *options, page.as_uri())
    return subprocess.run(command, capture_output=True, text=True, timeout=480)


@pytest.mark.cluster
def test_pictures_and_sounds_load_without_a_network(page: Path, tmp_path: Path) -> None:
    # A copy asks the browser itself what it could load, after everything has.
    probe = """<script>addEventListener("load", () => setTimeout(() => {
        const images = [...document.images], sounds = [...document.querySelectorAll("audio")];
        document.body.dataset.seen = [images.length, images.filter(i => i.naturalWidth > 50).length, sounds.length,
            sounds.filter(s => s.duration > 0.1).length, performance.getEntriesByType("resource")
            .filter(r => r.name.startsWith("http")).length, document.documentElement.scrollWidth].join(",");
    }, 500));</script></body>"""
    copy = tmp_path / "probe.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    done = browse(copy, tmp_path / "profile", "--virtual-time-budget=5000", "--dump-dom")
    found = re.search(r'data-seen="([\d,]+)"', done.stdout)
    assert found, done.stderr[-500:]
    images, loaded, sounds, playable, requests, width = map(int, found[1].split(","))
    assert images == loaded
    assert loaded + done.stdout.count("<svg") >= 2
    assert sounds == playable >= 3
    assert requests == 0
    assert width <= 1100, "the page scrolls sideways"


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("options", "dark"),
    [((), False), (("--force-dark-mode", "--blink-settings=preferredColorScheme=0"), True)],
)
def test_it_is_readable_in_light_and_dark(
    page: Path, tmp_path: Path, options: tuple[str, ...], dark: bool
) -> None:
    picture = tmp_path / "page.png"
    browse(page, tmp_path / "profile", f"--screenshot={picture}", *options)
    pixels = imread(picture)[..., :3].mean(axis=-1)
    background = float(np.median(pixels))
    assert background < 0.35 if dark else background > 0.75
    assert float(np.ptp(pixels)) > 0.6, "hardly any contrast: nothing was drawn"
