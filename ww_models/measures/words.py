"""Word error rate: how many of the words that were said a recogniser gets wrong."""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

# (samples (T,) float32 at full scale +-1, their rate in Hz) -> the words, as a text or one by one.
Recogniser = Callable[[np.ndarray, int], str | Sequence[str]]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words_of(said: str | Sequence[str]) -> list[str]:
    """Words in lower case without punctuation, of a text or of a list of words."""
    text = said if isinstance(said, str) else " ".join(said)
    return _WORD.findall(text.lower().replace("’", "'"))


def word_error_rate(reference: Sequence[str], heard: Sequence[str]) -> float:
    """Words to replace, drop and put in (Levenshtein 1966), in % of the reference's; NaN where nothing was said."""
    if not reference:
        return math.nan
    previous = list(range(len(heard) + 1))
    for row, wanted in enumerate(reference, start=1):
        current = [row]
        for column, word in enumerate(heard, start=1):
            replaced = previous[column - 1] + (word != wanted)
            current.append(min(replaced, previous[column] + 1, current[-1] + 1))
        previous = current
    return 100.0 * previous[-1] / len(reference)
