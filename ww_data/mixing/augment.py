"""What is done to a mixture beyond speech, noise and levels: how likely it is, and within which ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from numbers import Real
from typing import Literal

Range = tuple[float, float]
Chain = Literal["none", "default"]

# Probabilities of a chain; what is not listed is off.
_CHAINS: dict[str, dict[str, float]] = {
    "none": {},
    "default": {"room": 0.3, "equaliser": 0.3, "band_mask": 0.3, "second_noise": 0.3},
}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The probability of each effect (0 to 1), and the ranges, all uniform, that it is drawn from.

    `chain` gives every probability that is None: "none" is 0 throughout; "default" is rooms (if the corpus has
    any), equaliser, band mask and a second noise, 0.3 each. In their order of application:

    `speed`: speech is played faster or slower, pitch included.
    `room`: speech is heard in a room of the corpus; reflections up to `early_ms` after the direct path stay in the
    clean target. `echo`: decaying echoes instead, on speech and noise, of which the target keeps the part `echo_kept`.
    `second_noise`, `third_noise` (if there is a second): further noises, `further_noise_db` relative to the first.
    `noise_only`, `clean_only`: mixtures without speech and without noise.
    On both sides: `gain_change`, a turned knob; `equaliser`, three biquads; `telephone` (300 to 3400 Hz); `low_pass`,
    as MP3 has it; `band_mask`, a band that is taken out, up to `band_mask_width` of the mel scale wide.
    On the noisy side alone: `rumble` of 2 to 20 Hz, as wind and handling make it, at `rumble_dbfs`; `clipping` of
    peaks, `clipping_db` of them; `dropouts` of 20 ms packets, of which the part `dropout_share` is lost; `quantisation`
    to `quantisation_bits`, on the mu-law as often as not.
    """

    chain: Chain = "none"
    speed: float | None = None
    room: float | None = None
    echo: float | None = None
    second_noise: float | None = None
    third_noise: float | None = None
    noise_only: float | None = None
    clean_only: float | None = None
    gain_change: float | None = None
    equaliser: float | None = None
    telephone: float | None = None
    low_pass: float | None = None
    band_mask: float | None = None
    clipping: float | None = None
    dropouts: float | None = None
    quantisation: float | None = None
    rumble: float | None = None

    speed_factor: Range = (0.9, 1.1)
    early_ms: float = 50.0
    echo_initial: Range = (0.0, 0.3)  # gain of the first echo
    echo_delay_ms: Range = (10.0, 30.0)  # of the first echo
    echo_rt60_s: Range = (0.3, 1.3)  # until echoes are 60 dB down
    echo_kept: float = 0.1
    further_noise_db: Range = (-10.0, 0.0)
    gain_change_db: Range = (-10.0, 10.0)
    gain_change_s: Range = (0.02, 0.5)  # how long the knob turns
    equaliser_db: Range = (-8.0, 8.0)  # of each biquad
    low_pass_hz: Range = (4000.0, 7500.0)
    band_mask_width: float = 0.2
    clipping_db: Range = (2.0, 15.0)
    dropout_share: Range = (0.01, 0.1)
    quantisation_bits: tuple[int, int] = (6, 12)
    rumble_dbfs: Range = (-50.0, -12.0)

    def __post_init__(self) -> None:
        if self.chain not in tuple(_CHAINS):
            raise ValueError(f"augment.chain is {self.chain!r}: expected one of {', '.join(_CHAINS)}")
        for name in EFFECTS:
            value = getattr(self, name)
            if value is None:
                value = _CHAINS[self.chain].get(name, 0.0)
            if not is_within(value, (0, 1)):
                raise ValueError(f"augment.{name} is {value!r}: expected a probability, 0 to 1")
            object.__setattr__(self, name, float(value))
        for name, limits in _LIMITS.items():
            what, value = f"augment.{name}", getattr(self, name)
            if isinstance(getattr(type(self), name), tuple):
                object.__setattr__(self, name, range_of(what, value, limits))
            elif is_within(value, limits):
                object.__setattr__(self, name, float(value))
            else:
                raise ValueError(f"{what} is {value!r}: expected a value within {_as_text(limits)}")
        self._check_together()

    def _check_together(self) -> None:
        chances = self.chances
        if chances["noise_only"] + chances["clean_only"] > 1:
            raise ValueError(
                f"augment.noise_only is {self.noise_only} and clean_only {self.clean_only}: expected at most 1 in all"
            )
        if chances["third_noise"] and not chances["second_noise"]:
            raise ValueError(
                f"augment.third_noise is {self.third_noise} and second_noise {self.second_noise}: "
                "expected a second noise, too, for a third one comes only beside it"
            )
        low, high = self.quantisation_bits
        if low != int(low) or high != int(high):
            raise ValueError(f"augment.quantisation_bits is {(low, high)}: expected whole numbers")
        object.__setattr__(self, "quantisation_bits", (int(low), int(high)))

    @cached_property
    def chances(self) -> Mapping[str, float]:
        """The probability of each effect."""
        return {name: getattr(self, name) for name in EFFECTS}

    @cached_property
    def is_off(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(self.chances.values())


def is_within(value: object, limits: Range) -> bool:
    """Whether a value is a number, and within limits."""
    return isinstance(value, Real) and not isinstance(value, bool) and limits[0] <= float(value) <= limits[1]


def range_of(name: str, value: object, limits: Range) -> Range:
    """(lowest, highest) as they came in a setting, checked. Anything else is a ValueError that names the setting."""
    ends = tuple(value) if isinstance(value, Iterable) else ()
    if len(ends) != 2 or not all(is_within(end, limits) for end in ends) or not ends[0] <= ends[1]:
        raise ValueError(f"{name} is {value!r}: expected (lowest, highest) within {_as_text(limits)}")
    return float(ends[0]), float(ends[1])


def _as_text(limits: Range) -> str:
    return f"{limits[0]:g} and {limits[1]:g}"


# Names of the probabilities, in the order of the fields.
EFFECTS = tuple(field.name for field in fields(AugmentConfig) if field.default is None)
_LIMITS: dict[str, Range] = {
    "speed_factor": (0.5, 2.0),
    "early_ms": (0.0, 1000.0),
    "echo_initial": (0.0, 1.0),
    "echo_delay_ms": (1.0, 200.0),
    "echo_rt60_s": (0.05, 5.0),
    "echo_kept": (0.0, 1.0),
    "further_noise_db": (-60.0, 20.0),
    "gain_change_db": (-40.0, 40.0),
    "gain_change_s": (0.001, 10.0),
    "equaliser_db": (-30.0, 30.0),
    "low_pass_hz": (500.0, 48000.0),
    "band_mask_width": (0.0, 0.9),
    "clipping_db": (0.0, 40.0),
    "dropout_share": (0.0, 0.9),
    "quantisation_bits": (2, 16),
    "rumble_dbfs": (-90.0, 0.0),
}
