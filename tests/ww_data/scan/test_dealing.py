"""Dealing: with any hints, copies and earlier manifests, nothing is in two splits and nothing gets lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ww_data import Clip, CorpusError, Manifest
from ww_data.scan.splits import Dealer

SPLITS = ("train", "val", "test")
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


@settings(deadline=None, max_examples=50)
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


def test_another_seed_deals_anew() -> None:
    many = [clip(n, role, f"{n}", f"{role} {n}") for role in ("speech", "noise") for n in range(30)]
    known = Manifest(clips=tuple(dealer({}).deal(many)), seed=0)
    assert dealer({}, known, seed=1).deal(many) == dealer({}, seed=1).deal(many) != list(known.clips)


def test_hints_that_leave_nothing_to_train_on_do_not_count() -> None:
    """A single part of a data set, such as dev-clean alone, is a small corpus of its own."""
    some = [clip(n, role, f"{n}", f"{role} {n}") for role in ("speech", "noise") for n in range(9)]
    hints = {clip.id: "val" for clip in some if clip.role == "speech"}
    assert dealer(hints).deal(some) == dealer({}).deal(some)


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
