"""A noisy recording made clean at once; then the whole way: corpus, training, evaluation, a served denoiser.

Without --speech and --noise it makes a small corpus of synthetic voices and noises. All files go below --out.

example: python -m jobs.demo --speech my/speech --noise my/noise
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.evaluation.evaluate import EvaluationRequest, evaluate
from cluster.evaluation.report import write_report
from cluster.evaluation.scores import NOISY, EvaluationConfig, EvaluationReport
from cluster.first_sound import hear_first
from cluster.machine.progress import progress
from cluster.machine.session import connect
from cluster.serving.config import ServingConfig
from cluster.serving.deploy.deployment import ServingError, bindable_port, serve_bundles
from cluster.settings.experiment import ConfigError, ExperimentConfig, load_config
from cluster.training.checks import check_rate
from cluster.training.finetune import Source, check_fit, open_source
from cluster.training.run import TrainingResult, run_training
from jobs.cli import main, make_parser
from jobs.prepare import add_corpus_options, corpus_settings, prepare
from ww_data import Storage, open_corpus, read_audio, write_audio
from ww_data.write.corpus import checked_settings
from ww_models import PRETRAINED, read_bundle_info
from ww_models.quality import VALIDATION_MEASURES
from ww_models.whole_files import write_whole

NUM_REQUESTS = 5
PROMISE = """\
These were a few minutes. Longer training goes on from here: python -m jobs.train --data {corpus} \\
    --preset bandmask-compact --workers 2 --finetune {bundle}"""


def parser() -> argparse.ArgumentParser:
    parser = make_parser("demo", __doc__)
    option = parser.option
    option("--speech DIR", "folder of clean speech")
    option("--noise DIR", "folder of noise")
    option("--out DIR", "folder for everything that is made", default="demo")
    option("--preset PRESET", "name of a preset (README), or a YAML file of settings", default="demo")
    option("--set KEY=VALUE", "override one setting", action="append", default=[], dest="overrides")
    option(
        "--port N",
        "port of the endpoint on 127.0.0.1; 0 takes any free one when it is needed",
        type=int,
        default=0,
    )
    add_corpus_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    start = time.monotonic()
    if bool(arguments.speech) != bool(arguments.noise):
        raise ValueError(
            "--speech and --noise belong together: give both folders, or neither for made-up sounds"
        )
    # What can be found out now is not found out after minutes of training.
    for folder in filter(None, (arguments.speech, arguments.noise)):
        if not Path(folder).is_dir():
            raise ValueError(f"{folder} is not a folder; name one with recordings, at any depth")
    config = load_config(arguments.preset, arguments.overrides)
    check_rate(config, arguments.sample_rate, "the corpus (--sample-rate)")
    checked_settings(**corpus_settings(arguments), seed=arguments.seed)
    bindable_port(ServingConfig().host, arguments.port)
    out = Path(arguments.out).resolve()
    Storage(out).check_writable()
    source = shipped_weights(config)
    run_name = datetime.datetime.now().strftime("run-%Y%m%d-%H%M%S")
    step(f"1/6  {PRETRAINED.name}, which comes with Wave Wizard, at once")
    speech, noise = sounds(arguments, out)
    noisy, enhanced = hear_first(speech, noise, out / "first")
    print(f"  noisy     {noisy}\n  enhanced  {enhanced}", flush=True)
    with connect() as where:
        step(f"2/6  corpus, on {where}")
        corpus = make_corpus(arguments, out, speech, noise)
        step(f"3/6  {'fine-tuning' if source else 'training'} {config.model_name}")
        trained = run_training(config, str(corpus), out, run_name, finetune=source)
        step("4/6  evaluation on speakers and noises that training never saw")
        report = score(trained.bundle, corpus)
        page = write_report(report, trained.run_dir / "report")
        step("5/6  serving")
        noisy, enhanced, real_time_factor = through_http(trained, corpus, arguments.port)
    step("6/6  done")
    show(report, trained.run_dir.name)
    print(
        f"endpoint: {real_time_factor:.3f} s of computing per second of audio on one core, "
        f"{1 / real_time_factor:.0f} x real time"
    )
    for what, path in (
        ("report", page),
        ("bundle", trained.bundle),
        ("noisy", noisy),
        ("enhanced", enhanced),
        ("curves", f"tensorboard --logdir {trained.run_dir / 'tracking'}"),
    ):
        print(f"  {what:9} {path}")
    further = PROMISE.format(corpus=shlex.quote(str(corpus)), bundle=shlex.quote(str(trained.bundle)))
    print(f"\n{further}\n\ntook {time.monotonic() - start:.0f} s")


def shipped_weights(config: ExperimentConfig) -> Source | None:
    """Those that the model can start from; None for a model of another kind, which starts from nothing."""
    source = open_source(PRETRAINED)
    try:
        check_fit(source, config)
    except ConfigError:
        return None
    return source


def step(title: str) -> None:
    Console(stderr=True).rule(f"[bold]{title}", align="left")


def sounds(arguments: argparse.Namespace, out: Path) -> tuple[Path, Path]:
    """The user's folders of speech and noise, or made-up ones."""
    if arguments.speech:
        return Path(arguments.speech), Path(arguments.noise)
    from ww_data.synthetic.corpus import write_synthetic_corpus

    with progress("making voices and noises") as report:
        return write_synthetic_corpus(out / "synthetic", progress=report)


def make_corpus(arguments: argparse.Namespace, out: Path, speech: Path, noise: Path) -> Path:
    """The prepared corpus.

    Its folder is named after what is in it: the same sounds and settings are used again, others get a new folder.
    """
    folders: dict[str, Any] = {"speech_dirs": speech, "noise_dirs": noise}
    prepared = prepare(out / "corpus", arguments, **folders, named_by_content=True)
    return prepared.corpus.storage.path()


def score(bundle: Path, corpus: Path) -> EvaluationReport:
    """Of the trained model and, where it is of the corpus' rate, the one that comes with Wave Wizard."""
    others = (
        [PRETRAINED] if read_bundle_info(PRETRAINED).sample_rate == open_corpus(corpus).sample_rate else []
    )
    with progress("evaluating") as report_progress:
        request = EvaluationRequest(bundles=tuple(map(str, [*others, bundle])), data=str(corpus))
        # What streams cost is shown by the endpoint.
        return evaluate(request, EvaluationConfig(timing_s=0, num_harm_clips=8), report_progress)


def through_http(trained: TrainingResult, corpus: Path, port: int) -> tuple[Path, Path, float]:
    """Serves the bundle, sends one noisy test file, stops serving.

    Returns both files and the real-time factor that the replies stated, a median.
    """
    noisy, enhanced = trained.run_dir / "noisy.wav", trained.run_dir / "enhanced.wav"
    write_audio(noisy, *typical_noisy_clip(corpus))
    try:
        bindable_port(ServingConfig().host, port)
    except ServingError as error:  # taken while it trained
        print(f"{error}: taking a free port", file=sys.stderr)
        port = 0
    with serve_bundles(trained.bundle, ServingConfig(port=port, cpus_per_replica=0.5)) as url:
        print(f"POST {url}/v1/audio/denoise  file={noisy.name}")
        factors = []
        for _ in range(NUM_REQUESTS):
            with noisy.open("rb") as file:
                # It is on this machine, whatever proxy the environment names.
                reply = httpx.post(
                    f"{url}/v1/audio/denoise", files={"file": file}, timeout=60, trust_env=False
                )
            reply.raise_for_status()
            factors.append(float(reply.headers["X-Real-Time-Factor"]))
    write_whole({enhanced: reply.content})
    sent, received = (read_audio(path)[0] for path in (noisy, enhanced))
    if received.shape != sent.shape:
        raise RuntimeError(f"sent {sent.shape[0]} samples, got {received.shape[0]} back")
    return noisy, enhanced, float(np.median(factors))


def typical_noisy_clip(corpus: Path) -> tuple[np.ndarray, int]:
    """About 12 s of noisy speech, three test mixtures at 0 to 10 dB, one after the other; and their sample rate."""
    opened = open_corpus(corpus)
    mixtures = opened.mixtures("test")
    chosen = [index for index, snr_db in enumerate(mixtures.snrs_db) if 0 <= snr_db <= 10]
    clips = [mixtures[index][0] for index in (chosen or range(len(mixtures)))[:3]]
    return np.concatenate(clips), opened.sample_rate


def show(report: EvaluationReport, trained: str) -> None:
    """The short table: noisy, the shipped model and the trained one, with what the latter adds and how sure that is."""
    table = Table(title=f"{report.num_clips} test mixtures of unseen speakers and noises")
    shipped = [system.overall for system in report.systems if system.name not in (NOISY, trained)]
    noisy, own = (report.system(name).overall for name in (NOISY, trained))
    heads = ("", "noisy", *["as it comes" for _ in shipped], "trained", "improvement", "95 % interval")
    for column in heads:
        table.add_column(column, justify="left" if not column else "right")
    for name, measure in VALIDATION_MEASURES.items():
        gain = own.improvements[name]
        means = (f"{system.means[name].mean:.3f}" for system in (noisy, *shipped, own))
        table.add_row(measure.label, *means, f"{gain.mean:+.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}")
    Console(width=100).print(table)
    if shipped:
        print(against_shipped(report, trained))


def against_shipped(report: EvaluationReport, trained: str) -> str:
    """Whether training has made it better than what comes with Wave Wizard."""
    found = [one for one in report.comparisons if one.measure == "pesq" and trained in (one.a, one.b)]
    if not found:
        return "PESQ is not defined at this rate, so nothing is said about which model is better."
    sign = 1 if found[0].a == trained else -1
    change = found[0].difference
    low, high = sorted((sign * change.low, sign * change.high))
    verdict = "is better" if low > 0 else "is worse" if high < 0 else "is not surely better or worse"
    figures = f"PESQ {sign * change.mean:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
    return f"Trained further, it {verdict} than as it comes with Wave Wizard, on these mixtures ({figures})."


if __name__ == "__main__":
    main(parser(), run)
