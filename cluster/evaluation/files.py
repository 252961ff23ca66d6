"""What an evaluation leaves for programs: report.json and scores.parquet, written and read.

report.json: {"format": "wave-wizard-evaluation", "format_version": 2, ...} followed by the fields of EvaluationReport
as cluster/evaluation/scores.py documents them, undefined numbers as null:

    verdict                        one sentence
    notes[]                        what was converted to be scored, and what intervals cannot say
    sources{}, manifest_hash, measures[], num_clips, num_speakers, audio_s, sample_rates[] (Hz), machine, created_at,
    duration_s, config
    systems[]                      "noisy" first
      name, model                  model: null for noisy and for files, else bundle_id, path, latency_ms, ...
      harm                         null, or pesq, si_sdr_db (clean speech in), num_clips, silence_dbfs (silence in)
      cost                         null, or alone, batch_16: {"fp32", "int8"}, seconds of computing per second of sound
      seeds[], members[], spread.MEASURE   of several trainings: models; names in scores[]; means[], deviation
      stream_difference            of a stream: from the whole clip, at most
      overall, by.WAY[]            WAY: snr, noise, speaker, level, dataset; bucket ("": all), num_clips,
        means.MEASURE                  mean, low, high, num_defined, num_undefined
        improvements.MEASURE           mean, low, high, num_pairs
      best[], worst[]              entries like those of scores[]; of several trainings the first one's
    comparisons[]                  measure, a, b, difference {mean, low, high, num_pairs} of a - b, p, p_holm
    leaders[]                      measure, best, behind {system: p of being as good, Holm-corrected}
    undefined[]                    measure, system, clips[]: these count for no system, by this measure
    scores[], harm_scores[]        clip_id, dataset, speaker, noise, noise_id, sample_rate (Hz), duration_s,
                                   input_snr_db, input_level_dbfs, system, heard, stream_difference, and a
                                   number per MEASURE
    listening                      null, or what the answers of a listening test say, as ListeningSummary in
                                   cluster/evaluation/listening/analysis.py documents it
    examples[]                     facts as above; audio {name: file, from the report's folder}

MEASURE is a name in ww_models.quality.MEASURES. scores.parquet has a row for each entry of scores[] and harm_scores[],
with the same columns. Version 1 had no harm, cost, comparisons and buckets but SNRs.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.evaluation.scores import EvaluationReport, Score, facts_of

FORMAT, FORMAT_VERSION = "wave-wizard-evaluation", 2
_SOUNDS = ("examples", "extremes")  # fields that hold samples


class ReportError(ValueError):
    """A report.json that cannot be read."""


def report_json(report: EvaluationReport, verdict: str, audio: Sequence[dict[str, str]]) -> bytes:
    """audio: for each example, signal name -> file."""
    examples = [
        facts_of(example) | {"audio": files} for example, files in zip(report.examples, audio, strict=True)
    ]
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "verdict": verdict, "notes": report.notes}
    content = {
        field.name: _plain(getattr(report, field.name))
        for field in _fields(report)
        if field.name not in _SOUNDS
    }
    whole = head | content | {"examples": _plain(examples)}
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False).encode()


def scores_parquet(report: EvaluationReport) -> bytes:
    """A row per clip and system."""
    rows = [_row(score, report.measures) for score in (*report.scores, *report.harm_scores)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a report.json, or of the one in a folder. ReportError, one line, if it is none or damaged."""
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(
            f"{path}: cannot be read ({error.strerror}); give the report.json of jobs.evaluate"
        ) from error
    except ValueError as error:
        raise ReportError(f"{path}: is damaged or no JSON ({error}); evaluate again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ReportError(f"{path}: is no report of an evaluation; give the report.json of jobs.evaluate")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise ReportError(
            f"{path}: has format version {version}, this program reads {FORMAT_VERSION}; evaluate again with it"
        )
    needed = [  # what came later has a default
        field.name
        for field in dataclasses.fields(EvaluationReport)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in needed if name not in content]
    systems = content.get("systems")
    is_whole = isinstance(systems, list) and all(
        isinstance(system, dict) and {"name", "model", "overall", "harm", "cost"} <= system.keys()
        for system in systems
    )
    if missing or not is_whole:
        raise ReportError(f"{path}: is damaged ({', '.join(missing) or 'systems'} missing); evaluate again")
    return content


def _row(score: Score, measures: Sequence[str]) -> dict[str, Any]:
    values = {measure: score.values.get(measure, math.nan) for measure in measures}
    rest = {"system": score.system, "heard": score.heard, "stream_difference": score.stream_difference}
    return facts_of(score) | rest | values


def _plain(value: Any) -> Any:
    """As JSON has it: dataclasses as dicts, scores flat, NaN and infinity as None."""
    if isinstance(value, Score):
        return _plain(_row(value, tuple(value.values)))
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in _fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fields(value: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(value)
