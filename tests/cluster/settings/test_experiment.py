"""Settings: strict, typed, and the same after a round trip."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cluster.settings.experiment import PRESETS_DIR, ConfigError, ExperimentConfig, differences, load_config
from jobs.train import config_from, parser
from ww_data import AugmentConfig

PRESET_NAMES = sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_each_preset_loads_and_survives_a_round_trip(name: str) -> None:
    config = load_config(name)
    assert ExperimentConfig.from_dict(config.to_dict()) == config
    assert config.preset == name


def test_presets_cover_each_architecture_in_both_sizes() -> None:
    expected = {"waveunet", "demucs48", "demucs64", "gatewave", "tiny", "demo"}
    assert expected | {f"{name}-compact" for name in ("waveunet", "demucs", "gatewave", "bandmask")} <= set(
        PRESET_NAMES
    )


def test_overrides_win_over_the_preset() -> None:
    config = load_config("tiny", ["loss.l1_weight=2", "mixing.snr_db=[0, 5]", "optimizer.learning_rate=1e-5"])
    assert config.loss.l1_weight == 2.0
    assert config.mixing.snr_db == (0.0, 5.0)
    assert config.optimizer.learning_rate == 1e-5


def test_sections_within_sections_are_set_by_their_path() -> None:
    config = load_config("tiny", ["mixing.augment.chain=default", "mixing.augment.equaliser=0.5"])
    default = AugmentConfig(chain="default")
    assert config.mixing.augment == dataclasses.replace(default, equaliser=0.5)
    assert config.flat()["mixing.augment.room"] == default.room > 0
    assert ExperimentConfig.from_dict(config.to_dict()) == config
    assert load_config("tiny").mixing.augment.is_off


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("loss.l1_wieght=2", "did you mean loss.l1_weight?"),
        ("los.l1_weight=2", "did you mean loss?"),
        ("model.hiden=3", "did you mean model.hidden?"),
        ("model.preset=gatewave-compct", "did you mean gatewave-compact?"),
        ("model.name=demux", "did you mean demucs?"),
        ("training.batch_size=many", "training.batch_size takes a value of type int; got 'many'"),
        ("training.batch_size=3", "must be a multiple of"),
        ("training.batch_size=true", "takes a value of type int"),
        ("resources.min_workers=3", "min_workers must lie between 0 and num_workers=2; got 3"),
        ("mixing.snr_db=5", "takes a list"),
        ("mixing.snr_db=[1,2,3]", "takes 2 values"),
        ("training.validate_every_steps=0", "validate_every_steps must be at least 1"),
        ("training.score=mos", "must be one of si_sdr_db, snr_db, pesq, stoi, loss"),
        ("training.max_steps=0", "max_steps and max_epochs are both 0"),
        ("training.ema_decay=1", "ema_decay lies between 0 (off) and 1"),
        ("training.accumulate=0", "accumulate must be at least 1"),
        ("training.max_minutes=-1", "max_minutes must be 0 (no limit) or above"),
        ("tracking.log_every_steps=0", "log_every_steps must be at least 1; got 0"),
        ("tracking.clearml_close_s=0", "clearml_close_s must be above 0; got 0"),
        ("tracking.clearml=maybe", "must be one of auto, offline, never"),
        ("loss", "--set takes KEY=VALUE"),
        ("loss=3", "loss is a section"),
        ("mixing.snr_db=[-5,15", "is not a value"),
        ("model.preset=[1]", "model.preset takes a value of type str"),
        ("seed=-1", "seed must lie between 0 and"),
        ("training.num_pesq_mixtures=-1", "must not be negative"),
        ("seed.a=3", "seed takes a value of type int"),
        ("mixing.augment.equalizer=0.5", "did you mean mixing.augment.equaliser?"),
        ("mixing.augment.equaliser=2", "augment.equaliser is 2.0: expected a probability, 0 to 1"),
        ("mixing.augment.room=often", "mixing.augment.room takes a value of type float"),
        ("mixing.augment=default", "mixing.augment is a section"),
        ("mixing.augment.chain=all", "mixing.augment.chain must be one of none, default"),
    ],
)
def test_wrong_settings_are_named_with_what_was_meant(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=None) as error:
        load_config("tiny", ["resources.num_workers=2", override])
    assert words in str(error.value)


def test_an_elastic_batch_is_a_multiple_of_each_number_of_workers() -> None:
    elastic = ["resources.num_workers=4", "resources.min_workers=2"]
    with pytest.raises(ConfigError, match=r"batch_size=8 is shared by 2 to 4 .* each of .* such as 12$"):
        load_config("tiny", [*elastic, "training.batch_size=8"])
    assert load_config("tiny", [*elastic, "training.batch_size=12"]).resources.least_workers == 2


@pytest.mark.parametrize(
    ("text", "expected"), [("3", (3, 0)), ("1..4", (4, 1)), ("4..1", None), ("1..", None), ("two", None)]
)
def test_workers_are_a_number_or_a_range(text: str, expected: tuple[int, int] | None) -> None:
    arguments = parser().parse_args(["--data", "x", "--workers", text, "--set", "training.batch_size=12"])
    if expected is None:
        with pytest.raises(ConfigError, match=r"--workers takes a number|min_workers must lie between"):
            config_from(arguments)
    else:
        resources = config_from(arguments).resources
        assert (resources.num_workers, resources.min_workers) == expected


def test_all_loss_weights_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="all weights of the loss are 0"):
        load_config("tiny", ["loss.l1_weight=0", "loss.stft_weight=0"])


def test_unknown_preset_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean demucs"):
        load_config("demucs84")
    broken = tmp_path / "broken.yaml"
    broken.write_text("loss: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(str(broken))
    broken.write_text("training: {max_steps: 4}\nloss: {l1_weight: 2}\ntraining: {batch_size: 2}\n")
    with pytest.raises(ConfigError, match="training stands twice"):
        load_config(str(broken))
    broken.write_text("loss: {l1_weight: 2}\n", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not in UTF-8"):
        load_config(str(broken))
    broken.write_text("loss: {l1_weight: 2}\r\n", encoding="utf-8-sig")
    assert load_config(str(broken), ["model.preset=demucs-compact"]).loss.l1_weight == 2


def test_differences_name_the_setting_and_both_values() -> None:
    old, new = load_config("tiny"), load_config("tiny", ["loss.l1_weight=3"])
    assert differences(old.to_dict(), new.to_dict()) == ["loss.l1_weight: 1.0 -> 3.0"]
