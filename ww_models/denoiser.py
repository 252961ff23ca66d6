"""What every denoiser is: noisy speech in, clean speech of the same length out, cost and latency known."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from math import lcm
from typing import Any, ClassVar

from torch import Tensor, nn

from ww_models.checks import require
from ww_models.layers.level import NORMALIZE_MODES, LevelNormalizer, Normalize
from ww_models.layers.step import StreamingStep

# Bounds of any setting, and of how many layers there are of a kind.
MAX_NUMBER, MAX_LAYERS = 1_000_000, 32
LAYER_COUNTS = ("depth", "gru_layers", "lstm_layers")


def require_waveforms(noisy: Tensor) -> None:
    """Raises ValueError unless `noisy` is (B, 1, T) with T >= 1."""
    require(
        noisy.dim() == 3 and noisy.shape[1] == 1 and noisy.shape[2] >= 1,
        f"a denoiser takes (batch, 1, samples) with at least one sample, got {tuple(noisy.shape)}",
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What all architectures share.

    causal           True: bounded look-ahead, can run live. False: the original form that sees the whole clip
    sample_rate      Hz, of input and output
    normalize        "running" (level followed while it plays), "utterance" (one level for the clip) or "none"
    level_hop        samples between two updates of the running level, on a grid anchored at sample 0
    level_memory_s   seconds after which the running level has forgotten 63 % of the past
    level_floor      lowest level that is divided by (full scale is 1)
    residual         the network's output is added to its input: a short training starts from the noisy sound
    """

    causal: bool = True
    sample_rate: int = 16_000
    normalize: Normalize = "running"
    level_hop: int = 256
    level_memory_s: float = 0.2
    level_floor: float = 1e-3
    residual: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_kind(field.name, field.type)
        self.check("sample_rate", self.sample_rate > 0, "give a positive number of Hz, e.g. 16000")
        is_mode = self.normalize in NORMALIZE_MODES
        self.check("normalize", is_mode, f"choose one of {', '.join(NORMALIZE_MODES)}")
        self.check("level_hop", self.level_hop > 0, "give a positive number of samples, e.g. 256")
        is_finite = 0 < self.level_memory_s < float("inf")
        self.check("level_memory_s", is_finite, "give a finite number of seconds above 0, e.g. 0.2")
        self.check("level_floor", self.level_floor > 0, "give a level above 0, e.g. 0.001")

    def _check_kind(self, name: str, kind: Any) -> None:
        """A setting of another kind, or beyond what any model needs, may come from a file that is to do harm."""
        value = getattr(self, name)
        if value is None and kind == int | None:
            return
        if kind is bool:
            self.check(name, isinstance(value, bool), "give true or false")
        elif kind in (int, int | None):
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            most = MAX_LAYERS if name in LAYER_COUNTS else MAX_NUMBER
            self.check(name, is_whole and abs(value) <= most, f"give a whole number up to {most}")
        elif kind is float:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            self.check(name, is_number and abs(value) <= MAX_NUMBER, f"give a number up to {MAX_NUMBER}")

    def check(self, what: str, is_valid: bool, hint: str) -> None:
        """Raises ValueError unless a field is valid. what: its name, the architecture's may stand before it."""
        require(is_valid, f"{what} is {getattr(self, what.split()[-1])!r}: {hint}")


class Denoiser(nn.Module, ABC):
    """Base. A subclass gives what is abstract here."""

    name: ClassVar[str]
    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.level = LevelNormalizer(
            mode=config.normalize,
            hop=config.level_hop,
            memory_hops=config.level_memory_s * config.sample_rate / config.level_hop,
            floor=config.level_floor,
        )

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    @abstractmethod
    def stride(self) -> int:
        """Samples between two steps of the innermost layer."""

    @property
    def hop_samples(self) -> int:
        """Samples in and out of a streaming step. Input shifted by as many gives output shifted by as many."""
        return lcm(self.stride, self.config.level_hop) if self.config.normalize == "running" else self.stride

    @cached_property
    def lookahead_samples(self) -> int | None:
        """How far ahead of n the input is needed for output sample n; None if the whole clip is needed."""
        if self.config.normalize == "utterance" or not self._bounded:
            return None
        start = 4 * self.stride
        return max(self._last_input(n) - n for n in range(start, start + self.stride))

    @property
    def latency_samples(self) -> int | None:
        """After n samples of a stream at least n - latency_samples are out; None if it does not run in steps."""
        if self.lookahead_samples is None or not self.config.causal:
            return None
        # A hop of several strides waits for its end.
        return self.lookahead_samples + self.hop_samples - self.stride

    @property
    def latency_ms(self) -> float | None:
        return None if self.latency_samples is None else 1000 * self.latency_samples / self.sample_rate

    @cached_property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def macs_per_second(self) -> float:
        """Multiply-accumulates per second of audio, biases, norms and activations left out."""
        weights = ((weight, rate) for layer, rate in self.layer_rates() for weight in layer.parameters())
        return sum(rate * weight.numel() for weight, rate in weights if weight.dim() > 1)

    @abstractmethod
    def valid_length(self, num_samples: int) -> int:
        """The length that an input of `num_samples` is padded to (zeros at its end) inside `forward`."""

    def forward(self, noisy: Tensor) -> Tensor:
        """noisy (B, 1, T), any T >= 1, full scale +-1 -> estimate of the clean speech (B, 1, T)."""
        require_waveforms(noisy)
        scaled, scale = self.level(noisy)
        return self.denoise(scaled) * scale

    def denoise(self, scaled: Tensor) -> Tensor:
        """level-normalised (B, 1, T) -> (B, 1, T): everything but the level."""
        estimate = self.network(scaled)
        return estimate + scaled if self.config.residual else estimate

    @abstractmethod
    def network(self, scaled: Tensor) -> Tensor:
        """level-normalised (B, 1, T) -> (B, 1, T): the layers, without the residual around them."""

    @abstractmethod
    def streaming_step(self, num_hops: int = 1) -> StreamingStep:
        """One step of a stream, from the weights as they are now: a pure function that exports to ONNX.

        num_hops: of `hop_samples` in each step. More of them take less time each, and come later.
        """

    @abstractmethod
    def layer_rates(self) -> Iterator[tuple[nn.Module, float]]:
        """Every layer with weights and how many times per second of audio each of its weights is used."""

    @property
    def _bounded(self) -> bool:
        """Whether the network alone (without the level) has a bounded look-ahead."""
        return self.config.causal

    @abstractmethod
    def _last_input(self, n: int) -> int:
        """Index of the last input sample that the network needs for output sample n."""
