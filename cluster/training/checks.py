"""What can be said of a run before Ray is started: whether model, corpus and measure go together at a sample rate."""

from __future__ import annotations

from cluster.settings.experiment import ConfigError, ExperimentConfig
from ww_models.perceptual import pesq_note, pesq_rate


def check_rate(config: ExperimentConfig, sample_rate: int, corpus_uri: str) -> None:
    """Raises ConfigError, with both figures, unless a corpus of this rate is one that the model can be trained on."""
    model_rate = config.model.sample_rate
    if sample_rate != model_rate:
        raise ConfigError(
            f"{corpus_uri} has {sample_rate} Hz, the model {model_rate} Hz: prepare a corpus with --sample-rate "
            f"{model_rate}, or train a model of the other rate with --set model.sample_rate={sample_rate}"
        )


def check_measure(config: ExperimentConfig, measure: str) -> None:
    """Raises ConfigError for a measure that the model's sample rate has none of: all trials would be equally good."""
    if measure == "pesq" and pesq_rate(config.model.sample_rate) is None:
        raise ConfigError(f"{pesq_note(config.model.sample_rate)}; raise another measure, such as si_sdr_db")
