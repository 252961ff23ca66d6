"""Which screens a listener goes through: clips in his own order, and the stimuli of each in an order of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.evaluation.listening.source import (
    CLEAN,
    NOISY,
    ListeningError,
    ReportClip,
    Source,
    choose_clips,
    read_clip,
)
from cluster.evaluation.listening.stimuli import LOW_ANCHOR, MID_ANCHOR, check_anchor, make_stimuli
from ww_data.dsp import FloatArray

MUSHRA, AB = "mushra", "ab"
MODES = (MUSHRA, AB)
LETTERS = "ABCDEFGHIJKL"  # BS.1534-3: no more than twelve stimuli on a screen
REFERENCE = "reference"  # the open one, which has no letter
LISTENER_NAME = re.compile(r"[\w][\w .@-]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Screen:
    """A clip with its stimuli in the order in which one listener sees them: the first is A."""

    clip: ReportClip
    order: tuple[str, ...]

    def by_name(self, letter: str) -> str:
        return self.order[LETTERS.index(letter)]

    def letter_of(self, name: str) -> str:
        return LETTERS[self.order.index(name)]

    @property
    def letters(self) -> str:
        return LETTERS[: len(self.order)]


@dataclass(frozen=True, kw_only=True)
class ListeningTest:
    """A listening test: which clips, which stimuli, how. training: a clip to practise with, a spare one if there is."""

    source: Source
    mode: str
    stimuli: tuple[str, ...]
    anchors: tuple[str, ...]
    clips: tuple[ReportClip, ...]
    training: ReportClip
    seed: int

    def screens(self, listener: str) -> list[Screen]:
        """Training first, then all clips; the same whenever this listener comes."""
        rng = _generator(self.seed, self.mode, listener)
        clips = [self.clips[place] for place in rng.permutation(len(self.clips))]
        orders = balanced_orders(rng, self.stimuli, len(clips) + 1)
        return [
            Screen(clip=clip, order=order)
            for clip, order in zip([self.training, *clips], orders, strict=True)
        ]

    def sounds(self, clip: ReportClip) -> dict[str, FloatArray]:
        """What is heard of a clip, (T,) by stimulus, all of one length and loudness."""
        signals, sample_rate = read_clip(clip, self.source.sample_rate), self.source.sample_rate
        return make_stimuli(signals, self.anchors, sample_rate, clip.mixture_id)


def design_test(
    source: Source,
    *,
    mode: str = MUSHRA,
    num_clips: int = 12,
    systems: Sequence[str] = (),
    mid_anchor: bool = False,
    seed: int = 0,
) -> ListeningTest:
    """A test of these systems, or of all in the report. Raises ListeningError for what cannot be tested."""
    if num_clips < 1:
        raise ListeningError(f"clips must be at least 1; got {num_clips}")
    chosen = _choose_systems(source, mode, systems)
    anchors: tuple[str, ...] = ()
    if mode == MUSHRA:
        anchors = (LOW_ANCHOR, MID_ANCHOR) if mid_anchor else (LOW_ANCHOR,)
        for anchor in anchors:
            check_anchor(anchor, source.sample_rate)
    elif mid_anchor:
        raise ListeningError("an anchor belongs to --mode mushra: leave it out")
    stimuli = (*chosen, *anchors, CLEAN) if mode == MUSHRA else chosen
    if len(stimuli) > len(LETTERS):
        raise ListeningError(
            f"{len(stimuli)} stimuli on a screen; at most {len(LETTERS)}: name fewer --systems"
        )
    turns = choose_clips(source.clips, len(source.clips), seed)
    clips = turns[:num_clips]
    training = turns[num_clips] if len(turns) > num_clips else clips[0]
    return ListeningTest(
        source=source,
        mode=mode,
        stimuli=stimuli,
        anchors=anchors,
        clips=tuple(clips),
        training=training,
        seed=seed,
    )


def _choose_systems(source: Source, mode: str, systems: Sequence[str]) -> tuple[str, ...]:
    there = f"the report has {', '.join(source.systems)}"
    for name in systems:
        if name not in source.systems:
            raise ListeningError(f"no system is called {name}; {there}")
    if len(set(systems)) < len(systems):
        raise ListeningError(f"a system is named twice: {' '.join(systems)}")
    if mode != AB:
        return tuple(systems) or source.systems
    bundles = tuple(name for name in source.systems if name != NOISY)
    pairs = (tuple(systems), bundles, source.systems)
    pair = pairs[0] or next((pair for pair in pairs[1:] if len(pair) == 2), ())
    if len(pair) != 2:
        raise ListeningError(f"--mode ab compares two systems: name them with --systems; {there}")
    return pair


def balanced_orders(
    rng: np.random.Generator, stimuli: Sequence[str], num_screens: int
) -> list[tuple[str, ...]]:
    """Orders of the stimuli for so many screens.

    Every K screens are a random Latin square of the K stimuli: each stands in each place once, so over any number of
    screens how often it stood in two places differs by one at most.
    """
    num = len(stimuli)
    orders: list[tuple[str, ...]] = []
    while len(orders) < num_screens:
        names, places, rows = (rng.permutation(num) for _ in range(3))
        orders += [tuple(stimuli[names[(row + place) % num]] for place in places) for row in rows]
    return orders[:num_screens]


def check_listener(name: str) -> str:
    """A listener's name without what surrounds it. Raises ListeningError if it cannot be one."""
    name = name.strip()
    if not LISTENER_NAME.fullmatch(name):
        raise ListeningError(
            "a name has 1 to 40 letters, digits, spaces or . @ - and begins with a letter or digit"
        )
    return name


def _generator(*key: object) -> np.random.Generator:
    """A stream of random numbers of its own for each key."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
