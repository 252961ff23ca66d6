"""Bundles that were made to do harm: with right checksums, so that only what they say is wrong."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ww_models import Denoiser, build_model, load_bundle, save_bundle
from ww_models.bundle.info import BundleError, digest

SMALL: dict[str, dict[str, Any]] = {
    "waveunet": {"hidden": 2, "depth": 2},
    "gatewave": {"hidden": 2, "depth": 2},
    "demucs": {"hidden": 2, "depth": 2, "resample": 2, "lstm_layers": 1, "sinc_zeros": 4},
    "bandmask": {
        "hidden": 2,
        "fft_size": 32,
        "hop": 16,
        "num_bands": 4,
        "num_low_bins": 4,
        "normalize": "none",
    },
}
# 10,000 and more by `WW_HOSTILE_BUNDLES=10000`.
NUM_EXAMPLES = int(os.environ.get("WW_HOSTILE_BUNDLES", "300"))
MAX_GROWTH_BYTES = 200 << 20
MAX_LINE = 1000

NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 3, 7, 32, 33, 255, 4096, 10**5, 10**6, 10**9, 2**31, 2**63, 10**30, 0.5, -0.0, 1e300]
)
TEXTS = st.sampled_from(
    ["", "x", "../../etc/passwd", "/dev/zero", "a\nb", "\0", "gatewave", "running", "8", "é" * 400, "F64"]
)
SIMPLE = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SIMPLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], dict[str, Any], bytes]]:
    """Of each architecture: config.json, the header of the weights, and their numbers."""
    found = {}
    for name, sizes in SMALL.items():
        path = save_bundle(
            tmp_path_factory.mktemp(name) / "bundle", build_model(name, **sizes), licence="MIT"
        )
        content = (path / "weights.safetensors").read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        found[name] = (
            json.loads((path / "config.json").read_text()),
            json.loads(content[8:end]),
            content[end:],
        )
    return found


def _spoil(data: st.DataObject, holder: Any) -> None:
    """Another value for one of the fields at any depth, one field less, or one more."""
    while True:
        keys = sorted(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        inner = holder[key]
        if not (isinstance(inner, dict | list) and inner and data.draw(st.booleans())):
            break
        holder = inner
    how = data.draw(st.sampled_from(["other", "other", "other", "less", "more"]))
    if how == "other":
        holder[key] = data.draw(VALUES)
    elif how == "less":
        del holder[key]
    elif isinstance(holder, dict):
        holder[data.draw(TEXTS)] = data.draw(VALUES)
    else:
        holder.append(data.draw(VALUES))


def write(
    path: Path, config: dict[str, Any], header: bytes, numbers: bytes, length: int | None = None
) -> None:
    """A bundle whose checksums are right, whatever it says."""
    weights = (len(header) if length is None else length).to_bytes(8, "little") + header + numbers
    (path / "weights.safetensors").write_bytes(weights)
    if isinstance(config.get("model"), dict) and "sha256" in config["model"]:
        config["model"]["sha256"] = hashlib.sha256(weights).hexdigest()
    if isinstance(config.get("model"), dict):
        config["sha256"] = digest(config["model"])
    (path / "config.json").write_text(json.dumps(config))


def load_or_problem(path: Path) -> Denoiser | str:
    try:
        return load_bundle(path)
    except BundleError as error:
        return str(error)


@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from(sorted(SMALL)), st.data())
def test_it_is_refused_in_a_line_or_harmless(
    good: dict[str, tuple[dict[str, Any], dict[str, Any], bytes]],
    tmp_path: Path,
    name: str,
    data: st.DataObject,
) -> None:
    config, header, numbers = copy.deepcopy(good[name])
    length = None
    for _ in range(data.draw(st.integers(1, 3))):
        match data.draw(st.sampled_from(["config", "settings", "header", "numbers", "length"])):
            case "config":
                _spoil(data, config)
            case "settings":
                if isinstance(config.get("model"), dict) and isinstance(config["model"].get("config"), dict):
                    _spoil(data, config["model"]["config"])
            case "header":
                _spoil(data, header)
            case "numbers":
                numbers = data.draw(
                    st.sampled_from([b"", numbers[:-4], numbers + b"1234", b"\xff" * len(numbers)])
                )
            case "length":
                length = data.draw(st.sampled_from([0, 1, 8, 2**20, 2**31, 2**40, 2**64 - 1]))
    write(tmp_path, config, json.dumps(header).encode(), numbers, length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = load_or_problem(tmp_path)
    if isinstance(found, str):
        assert "\n" not in found
        assert len(found) < MAX_LINE
    else:
        assert all(bool(value.isfinite().all()) for value in found.state_dict().values())
        with torch.inference_mode():
            assert found(torch.zeros(1, 1, 64)).shape == (1, 1, 64)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MAX_GROWTH_BYTES


def test_a_file_far_larger_than_its_settings_say_is_not_read(
    good: dict[str, tuple[dict[str, Any], dict[str, Any], bytes]], tmp_path: Path
) -> None:
    config, header, numbers = copy.deepcopy(good["gatewave"])
    write(tmp_path, config, json.dumps(header).encode(), numbers)
    load_bundle(tmp_path)
    os.truncate(tmp_path / "weights.safetensors", 1 << 40)
    with pytest.raises(BundleError, match="do not fit the architecture"):
        load_bundle(tmp_path)
    os.truncate(tmp_path / "config.json", 1 << 40)
    with pytest.raises(BundleError, match="that of something else"):
        load_bundle(tmp_path)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(BundleError, match="cannot be read, it is damaged"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    "setting", ["hidden", "depth", "fft_size", "sinc_zeros", "level_hop", "growth", "memory_s", "kernel"]
)
@pytest.mark.parametrize("value", [10**6, 10**9, 10**30, 8.5, "8", True, None, [8]])
def test_settings_that_ask_for_any_memory_are_refused(
    good: dict[str, tuple[dict[str, Any], dict[str, Any], bytes]], tmp_path: Path, setting: str, value: object
) -> None:
    for config, header, numbers in copy.deepcopy(good).values():
        if setting not in config["model"]["config"]:
            continue
        config["model"]["config"][setting] = value
        write(tmp_path, config, json.dumps(header).encode(), numbers)
        if setting in ("growth", "memory_s") and not isinstance(value, str | bool | list | None):
            continue  # may change nothing that has a size
        if setting == "level_hop" and value == 10**6:
            continue
        with pytest.raises(BundleError) as error:
            load_bundle(tmp_path)
        assert "\n" not in str(error.value)
