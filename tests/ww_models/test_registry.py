"""Architectures and their settings by name."""

import dataclasses

import pytest

from ww_models import (
    MODELS,
    PRESETS,
    BandMaskConfig,
    DemucsConfig,
    GateWaveConfig,
    WaveUNetConfig,
    build_model,
    model_config,
)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_built_from_its_name_and_knows_it(name: str) -> None:
    config_type, model_type = MODELS[name]
    model = build_model(name, hidden=2)
    assert type(model) is model_type
    assert model.name == name
    assert model.config == config_type(hidden=2)
    assert build_model(name, **dataclasses.asdict(model.config)).config == model.config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_arguments_of_build_model(name: str) -> None:
    assert model_config(**PRESETS[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "gatewav"}, "did you mean 'gatewave'"),
        ({"name": "conformer9"}, "known are bandmask, demucs, gatewave, waveunet"),
        ({"name": "gatewave-compact"}, "preset"),
        ({"name": "demucs", "hiden": 3}, "did you mean 'hidden'"),
        ({"name": "gatewave", "resample": 4}, "unknown setting 'resample' of gatewave"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_known_one(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build_model(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config_type", "settings", "message"),
    [
        (DemucsConfig, {"resample": 3}, "resample"),
        (DemucsConfig, {"hidden": 0}, "hidden"),
        (DemucsConfig, {"kernel": 6}, "multiple of the stride"),
        (DemucsConfig, {"sinc_lookahead": 57}, "sinc_lookahead"),
        (DemucsConfig, {"depth": 1, "stride": 2, "kernel": 4}, "resample"),
        (DemucsConfig, {"normalize": "loud"}, "running, utterance, none"),
        (GateWaveConfig, {"kernel": 3}, "multiple of the stride"),
        (GateWaveConfig, {"gru_layers": 0}, "gru_layers"),
        (GateWaveConfig, {"growth": 0.5}, "growth"),
        (GateWaveConfig, {"level_floor": 0.0}, "level_floor"),
        (BandMaskConfig, {"hop": 0}, "bandmask hop is 0"),
        (BandMaskConfig, {"fft_size": 256}, "fft_size is 256 with hop 256: give a multiple of twice the hop"),
        (BandMaskConfig, {"num_bands": 257}, r"num_bands is 257: give 2 to fft_size / 2 \(256\)"),
        (BandMaskConfig, {"num_low_bins": 0}, "num_low_bins is 0"),
        (BandMaskConfig, {"num_taps": 0}, "num_taps"),
        (WaveUNetConfig, {"up_kernel": 4}, "odd"),
        (WaveUNetConfig, {"sample_rate": 0}, "sample_rate"),
        (WaveUNetConfig, {"level_hop": 0}, "level_hop"),
        (WaveUNetConfig, {"level_memory_s": 0}, "level_memory_s"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_construction(
    config_type: type, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config_type(**settings)


def test_configs_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GateWaveConfig().hidden = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        GateWaveConfig(24)  # type: ignore[misc]
