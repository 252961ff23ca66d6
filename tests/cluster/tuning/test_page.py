"""The page of a sweep: one file without a network, with what was found; and the table while it runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from cluster.tuning.ledger import Ledger
from cluster.tuning.live import live_table
from cluster.tuning.page import render_page, write_page
from tests.cluster.chromium import chromium
from tests.cluster.tuning.made_sweeps import made_ledger


@pytest.fixture(scope="module")
def ledger(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    ledger = made_ledger(
        tmp_path_factory.mktemp("sweep"), small_corpus, repeats=2, num_pruned=1, prune="asha"
    )
    ledger.save()
    return ledger


def test_it_says_what_is_best_and_shows_each_setting(ledger: Ledger) -> None:
    page = render_page(ledger)
    assert "<h1>Best of 9: loss.l1_weight 0, loss.stft_weight 0.25</h1>" in page
    assert "the mean of 2 seeds (±" in page
    assert page.count('<th scope="row">trial_') == 9
    assert f"{ledger.folder}/best.yaml" in page
    for words in (
        "ahead of the second",
        "PESQ over loss.l1_weight and loss.stft_weight",
        "What matters",
        "pruned",
    ):
        assert words in page
    assert page.count("<svg") == 4
    assert not re.search(r'(src|href)="(?!data:|#)|url\(http|https?://', page), (
        "it asks the network for something"
    )


def test_each_cell_of_the_heat_map_is_a_setting(ledger: Ledger) -> None:
    heat = render_page(ledger).partition("PESQ over loss")[2].partition("</figure>")[0]
    means = [float(text) for text in re.findall(r">([12]\.\d{3})</text>", heat)]
    assert len(means) == 8
    assert heat.count(">–</text>") == 1, "the one that was pruned"


def test_a_space_without_two_numbers_has_a_page_without_a_map(small_corpus: Path, tmp_path: Path) -> None:
    ledger = made_ledger(tmp_path, small_corpus, ["loss.l1_weight=1,2", "model.normalize=none,running"])
    page = render_page(ledger)
    assert page.count("<svg") == 2
    assert "colour of the nearest one" not in page
    ranges = made_ledger(
        tmp_path, small_corpus, ["loss.l1_weight=1..2", "loss.stft_weight=1..2:log"], search="random"
    )
    assert "colour of the nearest one" in render_page(ranges)


def test_the_live_table_shows_settings_step_time_score_and_state(ledger: Ledger) -> None:
    console = Console(width=140, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(live_table(ledger, 40))
    text = captured.get()
    assert "16 of 18 runs are done, 2 pruned" in text
    (row,) = (line for line in text.splitlines() if "trial_008_seed1" in line)
    for words in ("4", "30", "15 s", "0.900", "pruned"):
        assert words in row


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("options", "dark"),
    [((), False), (("--force-dark-mode", "--blink-settings=preferredColorScheme=0"), True)],
)
def test_it_is_readable_in_light_and_dark_and_on_a_phone(
    ledger: Ledger, tmp_path: Path, options: tuple[str, ...], dark: bool
) -> None:
    page, picture = write_page(ledger), tmp_path / "page.png"
    command = chromium(tmp_path / "profile", "--window-size=500,2400", *options, f"--screenshot={picture}")
    subprocess.run([*command, page.as_uri()], capture_output=True, timeout=480)
    pixels = imread(picture)[..., :3].mean(axis=-1)
    background = float(np.median(pixels))
    assert background < 0.35 if dark else background > 0.75
    assert float(np.ptp(pixels)) > 0.6, "hardly any contrast: nothing was drawn"
    probe = "<script>document.body.dataset.width = document.documentElement.scrollWidth</script></body>"
    copy = tmp_path / "probe.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    command = chromium(tmp_path / "profile", "--window-size=500,2400", *options, "--dump-dom", copy.as_uri())
    done = subprocess.run(command, capture_output=True, text=True, timeout=480)
    found = re.search(r'data-width="(\d+)"', done.stdout)
    assert found, done.stderr[-500:]
    assert int(found[1]) <= 500, "the page scrolls sideways"
