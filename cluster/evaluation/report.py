"""Writes an evaluation for people (report.html, one file that opens anywhere) and for programs (see `files`)."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from cluster.evaluation.files import report_json, scores_parquet
from cluster.evaluation.page.page import render_html
from cluster.evaluation.scores import EvaluationReport, Example
from cluster.evaluation.verdict import verdict
from ww_data import write_audio

_EXAMPLES, _JSON = "examples", "report.json"
_PARTS = (_EXAMPLES, "scores.parquet", "report.html", _JSON)  # as they come into place
_OWN_EXAMPLE = re.compile(r"\d+-.*\.wav")


def write_report(report: EvaluationReport, out_dir: str | os.PathLike[str]) -> Path:
    """Writes report.html, report.json, scores.parquet and examples/*.wav into `out_dir`, which is made if needed.

    An earlier report gives way when all of this one is written; whatever else lies in the folder stays, such as the
    answers of a listening test. Returns the path of report.html.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".report.", dir=out))
    try:
        (new / _EXAMPLES).mkdir()
        audio = [_write_example(example, number, new) for number, example in enumerate(report.examples, 1)]
        (new / "scores.parquet").write_bytes(scores_parquet(report))
        (new / "report.html").write_text(render_html(report), encoding="utf-8")
        (new / _JSON).write_bytes(report_json(report, " ".join(verdict(report)), audio))
        _put_in_place(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return out / "report.html"


def _put_in_place(new: Path, out: Path) -> None:
    """Between the first rename and the last the folder has no report.json: new sounds never lie beside old scores."""
    old = new / "old"
    old.mkdir()
    try:
        for name in reversed(_PARTS):
            if (out / name).exists():
                (out / name).rename(old / name)
        for name in _PARTS:
            (new / name).rename(out / name)
    except BaseException:  # Ctrl-C, too
        for name in _PARTS:
            if (old / name).exists():
                if (out / name).exists():
                    (out / name).rename(new / name)
                (old / name).rename(out / name)
        raise
    if (old / _EXAMPLES).is_dir():
        for entry in (old / _EXAMPLES).iterdir():
            if not _OWN_EXAMPLE.fullmatch(entry.name):  # somebody's own
                entry.rename(out / _EXAMPLES / entry.name)


def _write_example(example: Example, number: int, folder: Path) -> dict[str, str]:
    """Writes an example's signals; returns signal name -> file, from the report's folder."""
    files = {name: f"{_EXAMPLES}/{number}-{name}.wav" for name in example.signals}
    for name, signal_T in example.signals.items():
        write_audio(folder / files[name], np.clip(signal_T, -1, 1), example.sample_rate)
    return files
