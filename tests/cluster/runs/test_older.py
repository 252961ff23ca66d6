"""What earlier versions wrote is still read: `older/` holds a corpus and a run of 8 steps, as 0.1.0 left them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from cluster.runs.folder import read_run_config
from cluster.training.run import run_training
from ww_data import Storage, open_corpus
from ww_models import load_bundle

OLDER = Path(__file__).with_name("older")


def test_a_corpus_is_opened_and_whole() -> None:
    corpus = open_corpus(str(OLDER / "corpus"))
    corpus.verify()
    assert corpus.sample_rate == 8000
    assert {split: corpus.splits[split].num_mixtures for split in ("val", "test")} == {"val": 2, "test": 2}


@pytest.mark.parametrize("folder", ["bundle", "checkpoint_000000004/bundle"])
def test_a_bundle_is_loaded(folder: str) -> None:
    model = load_bundle(OLDER / "run" / folder)
    assert torch.isfinite(model(torch.zeros(1, 1, 4000))).all()


def test_a_run_resumes_and_ends_where_it_ended_then(local_ray: str, tmp_path: Path) -> None:
    shutil.copytree(OLDER / "run", tmp_path / "run", ignore=shutil.ignore_patterns("*0008"))
    shutil.rmtree(tmp_path / "run" / "bundle")
    config = read_run_config(Storage(tmp_path / "run"))
    result = run_training(config, str(OLDER / "corpus"), tmp_path, "run", resume=True, show_progress=False)
    assert result.steps == 8
    then, now = (load_bundle(folder).state_dict() for folder in (OLDER / "run" / "bundle", result.bundle))
    assert then.keys() == now.keys()
    for name in then:  # not bit for bit: `older` came from another processor
        torch.testing.assert_close(now[name], then[name], rtol=1e-3, atol=1e-5, msg=name)
