"""How much of the noise goes: as a share of the denoised sound, or as the most that is taken away, in dB.

Both name one mix, strength * denoised + (1 - strength) * input, sample beside sample: of noise that the model takes
away whole, the share of the input is what stays, and that is the same at all frequencies.
"""

from __future__ import annotations

# What callers know the two by.
OPTIONS = ("--strength", "--max-attenuation")
PARAMETERS = ("strength", "max_attenuation")


def strength_from(
    strength: float | None, max_attenuation_db: float | None, names: tuple[str, str] = PARAMETERS
) -> float:
    """The share of the denoised sound, 0 to 1; 1 where neither is given. ValueError says what is wrong, by `names`."""
    if strength is not None and max_attenuation_db is not None:
        raise ValueError(f"give either {names[0]} or {names[1]}: both say how much of the noise stays")
    if max_attenuation_db is not None:
        if not max_attenuation_db >= 0:  # NaN is not, either
            raise ValueError(
                f"{names[1]} is in dB and at least 0 (the input stays as it is); got {max_attenuation_db}"
            )
        return float(1 - 10 ** (-min(max_attenuation_db, 400) / 20))  # beyond, floats hold nothing of it
    if strength is not None and not 0 <= strength <= 1:
        raise ValueError(f"{names[0]} must lie between 0 (the input) and 1 (fully enhanced); got {strength}")
    return 1.0 if strength is None else float(strength)
