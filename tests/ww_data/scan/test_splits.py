"""Splits: with any hints, copies and earlier manifests nothing is in two of them, nothing gets lost."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ww_data import Clip, CorpusError, Manifest
from ww_data.manifest import SPLITS
from ww_data.scan.splits import Dealer, assign_splits

HINTS = st.sampled_from(["", "", "train", "val", "test"])


def clip(number: int, role: str, group: str, content: str, skip_reason: str = "") -> Clip:
    return Clip(
        id=f"{role}/{number:03}",
        path=f"/{number}",
        role=role,
        speaker=group,
        seconds=1.0 + number % 7,
        content_hash=content,
        skip_reason=skip_reason,
    )


@st.composite
def clips(draw: st.DrawFn) -> list[Clip]:
    """Some twenty speech clips of up to nine speakers, and noises, with copies and unusable ones among them."""
    made = []
    for role in ("speech", "noise"):
        for number in range(draw(st.integers(5, 20))):
            group, content = draw(st.integers(0, 8)), draw(st.integers(0, 40))
            reason = draw(st.sampled_from(["", "", "", "silent"]))
            made.append(clip(number, role, f"{role[0]}{group}", "" if reason else f"{content}", reason))
    return made


def dealer(hints: dict[str, str], known: Manifest | None = None, seed: int = 0) -> Dealer:
    return Dealer(val_fraction=0.2, test_fraction=0.2, seed=seed, hints=hints, known=known)


def deal(dealer: Dealer, clips: list[Clip]) -> list[Clip]:
    try:
        return dealer.deal(clips)
    except CorpusError:
        assume(False)
        raise


@given(clips(), st.data())
def test_no_group_and_no_sound_is_in_two_splits(clips: list[Clip], data: st.DataObject) -> None:
    hints = {clip.id: data.draw(HINTS) for clip in clips}
    dealt = deal(dealer(hints), clips)
    Manifest(clips=tuple(dealt)).check()
    assert [clip.id for clip in dealt] == [clip.id for clip in clips]
    assert all(bool(clip.split) != bool(clip.skip_reason) for clip in dealt)
    for before, after in zip(clips, dealt, strict=True):
        assert replace(after, split="", skip_reason=before.skip_reason) == before
        assert not before.skip_reason or after.skip_reason == before.skip_reason
    for role in ("speech", "noise"):
        assert {clip.split for clip in dealt if clip.role == role} - {""} == set(SPLITS)


@given(clips(), st.data())
def test_a_held_out_part_that_comes_with_the_data_is_taken_as_it_is(
    clips: list[Clip], data: st.DataObject
) -> None:
    clips = [replace(clip, content_hash=clip.content_hash and clip.id) for clip in clips]  # no copies
    hints = {clip.id: data.draw(HINTS) for clip in clips}
    dealt = deal(dealer(hints), clips)
    for role in ("speech", "noise"):
        usable = [clip for clip in clips if clip.role == role and not clip.skip_reason]
        test, val = (
            {clip.speaker for clip in usable if hints[clip.id] == split} for split in ("test", "val")
        )
        if not {clip.speaker for clip in usable} - test - val:
            continue  # the hints are of no use
        for split, groups in (("test", test), ("val", val - test)):
            taken = {clip.speaker for clip in dealt if clip.role == role and clip.split == split}
            assert not groups or taken == groups


@given(clips(), st.integers(1, 10), st.data())
def test_what_was_dealt_before_stays_where_it_is(
    clips: list[Clip], num_new: int, data: st.DataObject
) -> None:
    hints = {clip.id: data.draw(HINTS) for clip in clips}
    before = deal(dealer(hints), clips)
    known = Manifest(clips=tuple(before))
    assert dealer(hints, known).deal(clips) == before
    new = [clip(100 + n, "speech", f"new{n}", f"new{n}") for n in range(num_new)]
    new += [clip(200 + n, "noise", f"new{n}", f"{n}") for n in range(num_new)]  # some are copies
    after = {clip.id: clip for clip in dealer(hints, known).deal([*clips, *new])}
    Manifest(clips=tuple(after.values())).check()
    for clip_before in before:
        if clip_before.split and after[clip_before.id].split:
            assert after[clip_before.id].split == clip_before.split


@st.composite
def pairs(draw: st.DrawFn) -> list[Clip]:
    """Pairs of up to nine speakers, in which sentences and noises come several times, and some other sounds."""
    made = draw(clips())
    for number in range(100, 100 + draw(st.integers(1, 20))):
        sentence, noise = draw(st.integers(0, 50)), draw(st.integers(30, 70))
        speech = clip(number, "speech", f"s{draw(st.integers(0, 8))}", f"{sentence}")
        reason = draw(st.sampled_from(["", "", "", "silent"]))
        made.append(speech)
        made.append(
            replace(
                clip(number, "noise", f"{number}", "" if reason else f"{noise}", reason), minus=speech.path
            )
        )
    return made


@settings(deadline=None, max_examples=200)
@given(pairs(), st.data())
def test_sentences_of_several_pairs_are_in_one_split(pairs: list[Clip], data: st.DataObject) -> None:
    hints = {clip.id: data.draw(HINTS) for clip in pairs}
    first = data.draw(st.integers(len(pairs) // 2, len(pairs)))
    before = Manifest(clips=tuple(deal(dealer(hints), pairs[:first])))
    before.check()
    again = dealer(hints, before).deal(pairs[:first])
    assert [clip.split for clip in again] == [clip.split for clip in before.clips]
    dealt = deal(dealer(hints, before), pairs)
    Manifest(clips=tuple(dealt)).check()
    for clip_before, clip_after in zip(before.clips, dealt, strict=False):
        assert not clip_before.split or clip_after.split in (clip_before.split, "")


def test_a_copy_that_was_left_out_stays_out() -> None:
    """Also where both speakers came to be in one split: the first time one of them was still meant for another."""
    speech = [clip(0, "speech", "s0", "a"), clip(1, "speech", "s4", "a"), clip(6, "speech", "s2", "b")]
    speech += [clip(3, "speech", "s4", "sentence"), clip(4, "speech", "s1", "sentence")]
    noises = [clip(7 + n, "noise", f"{n}", f"noise {n}") for n in range(3)]
    noises += [replace(clip(n, "noise", f"{n}", f"noise {n}"), minus=f"/{n}") for n in (3, 4)]
    hints = {"speech/000": "test", "speech/001": "val", "speech/004": "train"}
    first = dealer(hints).deal([*speech, *noises])
    assert first[3].skip_reason.startswith("same sound as another file (speech/004")
    for seed in range(9):
        before = Manifest(clips=tuple(dealer(hints, seed=seed).deal([*speech, *noises])), seed=seed)
        assert tuple(dealer(hints, before, seed=seed).deal([*speech, *noises])) == before.clips


def test_another_seed_deals_anew() -> None:
    many = [clip(n, role, f"{n}", f"{role} {n}") for role in ("speech", "noise") for n in range(30)]
    known = Manifest(clips=tuple(dealer({}).deal(many)), seed=0)
    assert dealer({}, known, seed=1).deal(many) == dealer({}, seed=1).deal(many) != list(known.clips)


def test_hints_that_leave_nothing_to_train_on_do_not_count() -> None:
    """A single part of a data set, such as dev-clean alone, is a small corpus of its own."""
    some = [clip(n, role, f"{n}", f"{role} {n}") for role in ("speech", "noise") for n in range(9)]
    hints = {clip.id: "val" for clip in some if clip.role == "speech"}
    assert dealer(hints).deal(some) == dealer({}).deal(some)
    assert dealer(hints).notes(some) == (
        "speech: its own splits (val) leave nothing to train on, so all of it was dealt anew: give the part for "
        "training, too, if those splits are to stay",
    )
    hints["speech/000"] = ""  # something to train on
    assert dealer(hints).notes(some) == ()


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ([""] * 2, "speech: 3 speakers are needed, one for each split, but 2 were found .0, 1."),
        (
            ["test", ""],
            "speech: 2 more speakers are needed, for train and val, but 1 were found .1. in 2 usable",
        ),
        (["test", "val", "train", "train"], ""),
    ],
)
def test_too_few_speakers_are_one_clear_line(hints: list[str], message: str) -> None:
    speech = [clip(n, "speech", f"{n}", f"{n}") for n in range(len(hints))]
    noise = [clip(n, "noise", f"{n}", f"noise {n}") for n in range(5)]
    it = dealer({clip.id: hint for clip, hint in zip(speech, hints, strict=True)})
    if not message:
        assert [clip.split for clip in it.deal(speech + noise)][:4] == hints
        return
    with pytest.raises(CorpusError, match=message) as caught:
        it.deal(speech + noise)
    assert "\n" not in str(caught.value)


GROUPS = st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0.5, 500), min_size=3, max_size=60)
FRACTIONS = st.floats(0.02, 0.45)


@given(GROUPS, FRACTIONS, FRACTIONS, st.integers(0, 2**32 - 1), st.randoms())
def test_every_group_gets_one_split_and_every_split_a_group(
    groups: dict[str, float], val: float, test: float, seed: int, shuffle: random.Random
) -> None:
    splits = assign_splits(groups, val_fraction=val, test_fraction=test, seed=seed)
    assert splits.keys() == groups.keys()
    assert set(splits.values()) == {"train", "val", "test"}
    names = list(groups)
    shuffle.shuffle(names)
    reordered = {name: groups[name] for name in names}
    assert assign_splits(reordered, val_fraction=val, test_fraction=test, seed=seed) == splits


@given(st.lists(st.floats(3, 15), min_size=60, max_size=200), st.integers(0, 1000))
def test_many_groups_fill_the_fractions_closely(seconds: list[float], seed: int) -> None:
    groups = {f"speaker {index}": value for index, value in enumerate(seconds)}
    splits = assign_splits(groups, val_fraction=0.1, test_fraction=0.2, seed=seed)
    total = sum(seconds)
    for split, fraction in (("val", 0.1), ("test", 0.2)):
        share = sum(groups[name] for name, where in splits.items() if where == split) / total
        assert abs(share - fraction) < 0.03


@given(GROUPS, FRACTIONS, FRACTIONS, st.integers(0, 1000))
def test_a_held_out_split_is_overfilled_by_one_group_at_most(
    groups: dict[str, float], val: float, test: float, seed: int
) -> None:
    """Speakers may have very different lengths: none takes much more than a split's share with it."""
    splits = assign_splits(groups, val_fraction=val, test_fraction=test, seed=seed)
    for split, fraction in (("val", val), ("test", test)):
        seconds = [groups[name] for name, where in splits.items() if where == split]
        assert len(seconds) == 1 or sum(seconds) <= 1.25 * fraction * sum(groups.values()) + 1e-6


def test_one_giant_speaker_trains() -> None:
    groups = {"giant": 1000.0} | {f"small {index}": 10.0 for index in range(20)}
    for seed in range(20):
        assert assign_splits(groups, val_fraction=0.1, test_fraction=0.1, seed=seed)["giant"] == "train"


def test_seeds_differ() -> None:
    groups = {f"speaker {index}": 10.0 for index in range(30)}
    held_out = {
        frozenset(
            name
            for name, split in assign_splits(groups, val_fraction=0.1, test_fraction=0.1, seed=seed).items()
            if split == "test"
        )
        for seed in range(10)
    }
    assert len(held_out) > 5


def test_two_groups_are_too_few() -> None:
    with pytest.raises(ValueError, match="2 groups"):
        assign_splits({"a": 1.0, "b": 1.0}, val_fraction=0.1, test_fraction=0.1, seed=0)


@given(GROUPS, FRACTIONS, FRACTIONS, st.integers(0, 1000), st.data())
def test_what_is_fixed_stays_and_what_is_closed_takes_no_more(
    groups: dict[str, float], val: float, test: float, seed: int, data: st.DataObject
) -> None:
    names = st.sampled_from(sorted(groups))
    fixed = data.draw(
        st.dictionaries(names, st.sampled_from(["train", "val", "test"]), max_size=len(groups) - 3)
    )
    closed = data.draw(st.sets(st.sampled_from(["val", "test"])))
    fractions = {"val_fraction": val, "test_fraction": test}
    splits = assign_splits(groups, **fractions, seed=seed, fixed=fixed, closed=closed)
    assert splits.keys() == groups.keys()
    assert set(splits.values()) == {"train", "val", "test"}
    assert fixed.items() <= splits.items()
    for split in closed & set(fixed.values()):
        assert {name for name in splits if splits[name] == split} == {
            name for name in fixed if fixed[name] == split
        }
    again = assign_splits(groups, **fractions, seed=seed + 1, fixed=splits, closed=closed)
    assert again == splits
