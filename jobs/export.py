"""Exports a bundle for the CPU engine: an .onnx file that runs live with numpy and onnxruntime alone.

Beside the .onnx a .json says how to drive it; docs/run_exported.py does so in 60 lines. Only causal models
can be exported. int8 is faster, and is exported only together with what it loses against fp32, measured on the
stored test mixtures of a corpus: PESQ (1 to 4.6), SI-SDR (dB) and the SNR of its output to that of fp32 (dB). These
figures and the real-time factor (CPU seconds per second of audio, one stream) go into the .json and into the
bundle's model card.

example: python -m jobs.export --bundle runs/mine/bundle --out denoiser.onnx --precision int8 --data data/mine
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.export import export_bundle
from cluster.machine.progress import progress, waiting
from jobs.cli import main, make_parser
from ww_models.quality import MEASURES
from ww_models.streaming.onnx_export import PRECISIONS


def parser() -> argparse.ArgumentParser:
    parser = make_parser("export", __doc__)
    option = parser.option
    option("--bundle DIR", "bundle to export", required=True)
    option(
        "--out FILE",
        "file to write, ending in .onnx; an earlier export is replaced",
        required=True,
        type=Path,
    )
    option("--precision", "of the large matrix products", choices=PRECISIONS, default="fp32")
    option("--data DIR", "corpus to measure int8 on, as jobs.prepare wrote it")
    option("--mixtures N", "mixtures to measure int8 on, from all SNRs in turn", type=int, default=30)
    return parser


def run(arguments: argparse.Namespace) -> None:
    bundle, out = arguments.bundle, arguments.out
    settings = {
        "precision": arguments.precision,
        "corpus_uri": arguments.data,
        "num_mixtures": arguments.mixtures,
    }
    if arguments.precision == "fp32":
        with waiting("exporting"):
            measured = export_bundle(bundle, out, **settings)
    else:
        with progress("measuring int8") as report:
            measured = export_bundle(bundle, out, **settings, progress=report)
        show(measured)
    print(f"graph:       {out.resolve()}")
    print(f"description: {out.with_suffix('.json').resolve()}")
    if measured:
        print(f"model card:  {bundle}/README.md")


def show(measured: dict[str, Any]) -> None:
    """A table of fp32 beside int8; a line of warning where int8 loses more than it should."""
    labels = {measure: MEASURES[measure].label for measure in measured["limits"]}
    table = Table("", "fp32", "int8", "change")
    for key, label in (labels | {"real_time_factor": "real-time factor"}).items():
        before, after = measured[key]["fp32"], measured[key]["int8"]
        if before is None or after is None:
            table.add_row(label, "–", "–", "–")
        else:
            table.add_row(label, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    Console(soft_wrap=True).print(table)
    print(
        f"int8 output against fp32: SNR {measured['snr_to_fp32_db']:.1f} dB, "
        f"over {measured['num_mixtures']} stored test mixtures"
    )
    if not measured["is_within_limits"]:
        limits = " or ".join(f"{limit} {labels[measure]}" for measure, limit in measured["limits"].items())
        print(f"warning: int8 loses more than {limits} here; prefer fp32", file=sys.stderr)


if __name__ == "__main__":
    main(parser(), run)
