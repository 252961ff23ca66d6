"""A process that is killed while it scores costs its clips once more, and changes nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import ray
import torch
from torch import Tensor

from cluster.evaluation.clips import corpus_clips
from cluster.evaluation.scores import Score
from cluster.evaluation.scoring import Work, score_clips
from ww_data import open_corpus
from ww_models import Denoiser, build_model
from ww_models.architectures.gatewave import GateWave


class FatalOnce(GateWave):
    """Kills the process that runs it, if a file is there, and takes that away first."""

    trap = ""

    def denoise(self, scaled: Tensor) -> Tensor:
        trap = Path(self.trap)
        if trap.exists():
            trap.unlink(missing_ok=True)  # another process may have had it, too
            os.kill(os.getpid(), signal.SIGKILL)
        return super().denoise(scaled)


def scores(corpus_uri: Path, model: Denoiser) -> list[Score]:
    work = Work(
        clips=tuple(corpus_clips(open_corpus(corpus_uri), 6)),
        measures=("snr_db", "si_sdr_db", "lsd_db"),
        models={"m": ray.put(model)},
        engines={},
        files={},
        recogniser="",
    )
    return score_clips(work, 2, 2.0, 1.0, 0.0, None)


@pytest.mark.cluster
def test_a_killed_process_costs_its_clips_once_more(
    local_ray: str, small_corpus: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = build_model("gatewave", hidden=4, depth=2)
    expected = scores(small_corpus, model)
    model.__class__ = FatalOnce
    model.trap = str(tmp_path / "trap")  # type: ignore[assignment]
    Path(model.trap).touch()  # type: ignore[arg-type]
    found = scores(small_corpus, model)
    assert not Path(model.trap).exists(), "nothing was killed"  # type: ignore[arg-type]
    assert repr(found) == repr(expected)
    assert len(found) == 6 * 2 + 2
