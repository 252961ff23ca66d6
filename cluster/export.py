"""A bundle exported for the CPU engine; in int8 only together with what that loses against fp32.

Both are run as streams over a corpus' stored test mixtures, one after the other in this process: scores are those
of what a listener of the export hears, times those of one core.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from cluster.enhancement import torch_threads
from cluster.evaluation.clips import choose_mixtures
from ww_data import Corpus, open_corpus
from ww_data.parallel import Progress
from ww_models import Quality, load_bundle, score_clip, snr_db, stream
from ww_models.bundle.bundle import add_metrics
from ww_models.streaming.engine import require_steps
from ww_models.streaming.onnx_engine import OnnxEngine, check_target
from ww_models.streaming.onnx_export import Precision

# What int8 may lose, by measure and in its unit: less than anyone hears.
LIMITS = {"pesq": 0.05, "si_sdr_db": 0.2}


def export_bundle(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    corpus_uri: str | None = None,
    num_mixtures: int = 30,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the bundle's streaming step as `out` (.onnx) and the .json beside it.

    precision: "int8" is measured against fp32 on `num_mixtures` test mixtures of the corpus, and the figures go into
        the .json and into the bundle's config.json and model card.
    Returns what `measure_int8` found; {} for fp32.
    Raises ValueError (BundleError, CorpusError), one line, before anything is written.
    """
    if precision == "int8" and corpus_uri is None:
        raise ValueError(
            "int8 is exported only together with its measured loss: name a prepared corpus to measure on (--data)"
        )
    if precision == "fp32" and corpus_uri is not None:
        raise ValueError(
            "a corpus is only needed to measure what int8 loses: leave --data out, or export int8"
        )
    if num_mixtures < 1:
        raise ValueError(f"the number of mixtures is {num_mixtures}: give at least 1")
    check_target(out)
    model = load_bundle(bundle)
    require_steps(model)
    with torch_threads(1):
        if corpus_uri is None:
            OnnxEngine.from_model(model).save(out)
            return {}
        if not os.access(bundle, os.W_OK):
            raise ValueError(
                f"{bundle} cannot be written to, and the loss of int8 goes into its card: export from a copy"
            )
        corpus = open_corpus(corpus_uri)
        if corpus.sample_rate != model.sample_rate:
            raise ValueError(
                f"{corpus_uri} has {corpus.sample_rate} Hz, the model {model.sample_rate} Hz: "
                "measure on a corpus that was prepared at the model's rate"
            )
        fp32 = OnnxEngine.from_model(model)
        try:
            int8 = OnnxEngine.from_model(model, precision)
        except RuntimeError as error:
            raise ValueError(f"{bundle} does not stand int8: {error}") from error
    measured = measure_int8(fp32, int8, corpus, num_mixtures, progress)
    int8.save(out, measured)
    add_metrics(bundle, {"int8": measured})
    return measured


def measure_int8(
    fp32: OnnxEngine, int8: OnnxEngine, corpus: Corpus, num_mixtures: int, progress: Progress | None = None
) -> dict[str, Any]:
    """What int8 loses, as JSON holds it; means over mixtures from all SNRs of the corpus in turn.

    snr_to_fp32_db    of the int8 output against the fp32 output
    pesq, si_sdr_db   {"fp32", "int8"} against the clean speech; None where they are not defined
    real_time_factor  {"fp32", "int8"} CPU seconds per second of audio, one stream, hop by hop; a median
    is_within_limits  whether int8 loses at most `limits`
    """
    engines = {"fp32": fp32, "int8": int8}
    stored = corpus.mixtures("test")
    mixtures = choose_mixtures(stored, num_mixtures)
    snrs_db: list[float] = []
    scores: dict[str, list[Quality]] = {name: [] for name in engines}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():  # the first steps also pay for choosing kernels
        _streamed(engine, np.zeros(corpus.sample_rate, np.float32))
    for noisy_T, clean_T in (stored[mixture] for mixture in mixtures):
        outputs = {}
        for name, engine in engines.items():
            outputs[name], cpu_s = _streamed(engine, noisy_T)
            times[name].append(cpu_s * corpus.sample_rate / len(noisy_T))
            scores[name].append(score_clip(clean_T, outputs[name], corpus.sample_rate))
        snrs_db.append(float(snr_db(*(outputs[name].astype(np.float64) for name in ("fp32", "int8")))))
        if progress:
            progress(len(snrs_db), len(mixtures), "")
    means = {measure: _paired_means(scores, measure) for measure in LIMITS}
    if means["si_sdr_db"]["fp32"] is None:
        raise ValueError(
            f"none of {len(mixtures)} test mixtures of {corpus.storage} could be scored: "
            "measure on a corpus with speech in it"
        )
    return {
        "snr_to_fp32_db": float(np.nanmean(snrs_db)),
        **means,
        "real_time_factor": {name: float(np.median(values)) for name, values in times.items()},
        "num_mixtures": len(mixtures),
        "manifest_hash": corpus.manifest_hash,
        "limits": dict(LIMITS),
        "is_within_limits": all(_is_within(limit, **means[measure]) for measure, limit in LIMITS.items()),
    }


def _is_within(limit: float, fp32: float | None, int8: float | None) -> bool:
    """Whether int8 scores at most `limit` lower; a measure that is not defined (PESQ at other rates) has no limit."""
    return fp32 is None or int8 is None or fp32 - int8 <= limit


def _streamed(engine: OnnxEngine, noisy_T: np.ndarray) -> tuple[np.ndarray, float]:
    """The output (T,) of a stream that gets a hop at a time, and the seconds this thread computed for it."""
    streamer = stream(engine)
    start_s = time.thread_time()
    hop = engine.hop_samples
    parts = [streamer.feed(noisy_T[None, begin : begin + hop]) for begin in range(0, len(noisy_T), hop)]
    parts.append(streamer.flush())
    return np.concatenate(parts, axis=-1)[0], time.thread_time() - start_s


def _paired_means(scores: dict[str, list[Quality]], measure: str) -> dict[str, float | None]:
    """By engine, the mean over the mixtures for which all are defined; None if there is none."""
    table = np.array([[getattr(score, measure) for score in rows] for rows in scores.values()])
    table = table[:, np.isfinite(table).all(axis=0)]
    return {name: float(row.mean()) if row.size else None for name, row in zip(scores, table, strict=True)}
