"""The README.md of a bundle: what a person wants to know before using a model."""

from collections.abc import Mapping, Sequence
from typing import Any

from ww_models.bundle.info import BundleInfo
from ww_models.perceptual import pesq_note
from ww_models.quality import MEASURES

_TITLES = {"waveunet": "Wave-U-Net", "demucs": "Demucs", "gatewave": "GateWave", "bandmask": "BandMask"}

_USE = """```python
import torch
from ww_models import enhance, load_bundle

model = load_bundle("{folder}")              # the folder of this file
noisy = torch.zeros(1, 1, {rate})            # (batch, 1, samples), {rate} Hz, full scale +-1
clean = enhance(model, noisy, strength=1.0)  # same shape, aligned with the input
```"""


def model_card(info: BundleInfo) -> str:
    """The card as Markdown."""
    parts = [
        f"# {_TITLES.get(info.architecture, info.architecture)} speech denoiser `{info.id}`",
        "Removes background noise from speech: a waveform goes in, a waveform of the same length comes out.",
        _table(("", ""), _facts(info)),
        "## Quality",
        _quality(info.metrics),
        *filter(None, [pesq_note(info.sample_rate) if info.metrics else ""]),
        *_int8(info.metrics.get("int8")),
        "## Data",
        _listing(info.data) or "Not recorded.",
        "## Training",
        _listing(info.training) or "Not recorded.",
        "## Limits",
        "Made for one voice or several in noise. Music, singing and alarms count as noise and are removed. "
        f"Audio at another sample rate has to be converted to {info.sample_rate} Hz first.",
        "## Use",
        _USE.format(folder=".", rate=info.sample_rate),
        "## Licence",
        info.licence,
    ]
    return "\n\n".join(parts) + "\n"


def _facts(info: BundleInfo) -> list[tuple[str, str]]:
    latency = "needs the whole clip" if info.latency_ms is None else f"{info.latency_ms:.1f} ms of look-ahead"
    return [
        ("Sample rate", f"{info.sample_rate} Hz, mono"),
        ("Latency", latency),
        ("Parameters", f"{info.num_parameters / 1e6:.2f} million"),
        ("Work", f"{info.macs_per_second / 1e9:.3f} GMAC per second of audio"),
        ("Settings", ", ".join(f"{key}={value}" for key, value in info.config.items())),
        ("Created", info.created),
        ("Weights (SHA-256)", f"`{info.sha256}`"),
    ]


def _quality(metrics: Mapping[str, Any]) -> str:
    """A table noisy against enhanced where both are given, then whatever else was measured."""
    noisy, enhanced = metrics.get("noisy"), metrics.get("enhanced")
    rest, parts = {key: value for key, value in metrics.items() if key != "int8"}, []
    if isinstance(noisy, Mapping) and isinstance(enhanced, Mapping):
        del rest["noisy"], rest["enhanced"]
        measures = dict.fromkeys([*noisy, *enhanced])
        rows = [_compared(measure, noisy.get(measure), enhanced.get(measure)) for measure in measures]
        parts.append(_table(("measure", "noisy", "enhanced", "gain"), rows))
    if rest:
        parts.append(_listing(rest))
    return "\n\n".join(parts) or "Not measured."


def _int8(measured: Any) -> list[str]:
    """A section on what the int8 form of the CPU engine loses against fp32, where that was measured."""
    if not isinstance(measured, Mapping):
        return []
    limits = measured["limits"]
    rows = [_compared(measure, measured[measure]["fp32"], measured[measure]["int8"]) for measure in limits]
    bounds = " and ".join(f"{limit} in {MEASURES[measure].label}" for measure, limit in limits.items())
    stays = f"It stays within {bounds} of fp32."
    return [
        "## int8",
        _table(("measure", "fp32", "int8", "change"), rows),
        f"The int8 output against that of fp32: SNR {_number(measured['snr_to_fp32_db'])} dB, "
        f"over {measured['num_mixtures']} stored test mixtures.",
        stays if measured["is_within_limits"] else f"It does not stay within {bounds} of fp32: prefer fp32.",
    ]


def _listing(values: Mapping[str, Any], prefix: str = "") -> str:
    """Nested settings as `- dotted.path: value` lines."""
    lines = (
        _listing(value, f"{prefix}{key}.")
        if isinstance(value, Mapping)
        else f"- {prefix}{key}: {_number(value)}"
        for key, value in values.items()
    )
    return "\n".join(line for line in lines if line)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _compared(measure: str, before: Any, after: Any) -> tuple[str, ...]:
    """Its label, both scores and what is gained."""
    both = isinstance(before, int | float) and isinstance(after, int | float)
    label = MEASURES[measure].label if measure in MEASURES else measure
    return label, _number(before), _number(after), f"{after - before:+.3g}" if both else "–"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
