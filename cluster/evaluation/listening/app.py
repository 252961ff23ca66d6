"""The listening test over HTTP. The page knows letters; which stimulus a letter is, only the server knows.

POST /api/sessions                                   a listener begins, or goes on where he was
GET  /api/sessions/{session}/screens/{n}             what he answered there before; 0 is the training
GET  /api/sessions/{session}/screens/{n}/{letter}    a sound, or "reference": 16-bit samples, mono, little-endian
PUT  /api/sessions/{session}/screens/{n}             his answer, stored when this returns
GET  /                                               the page

All sounds of a screen have the same number of bytes and the same headers.
"""

from __future__ import annotations

import functools
import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from fastapi import FastAPI, Response
from pydantic import BaseModel, Field

from cluster.errors import one_line
from cluster.evaluation.listening.answers import Answer, append_answer, last_answers, read_listening
from cluster.evaluation.listening.design import AB, REFERENCE, ListeningTest, Screen, check_listener
from cluster.evaluation.listening.source import CLEAN, ListeningError
from cluster.evaluation.listening.stimuli import as_pcm
from cluster.serving.errors import ApiError
from cluster.serving.web.error_replies import install_error_handlers
from cluster.serving.web.observability import RequestLog
from cluster.serving.web.origins import OriginGuard
from cluster.serving.web.page import HEADERS, add_page
from ww_data.dsp import FloatArray

PAGE_FOLDER = Path(__file__).with_name("page")
SAME = "same"  # neither is preferred
Rating = Annotated[int, Field(ge=0, le=100)]
Plays = Annotated[int, Field(ge=0, le=1_000_000)]


class Beginning(BaseModel):
    """Who sits down."""

    listener: Annotated[str, Field(max_length=200)]


class Reply(BaseModel):
    """An answer as the page sends it, by letter. preferred: of ab, a letter or "same"."""

    plays: dict[str, Plays]
    seconds: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    comment: Annotated[str, Field(max_length=2000)] = ""
    ratings: dict[str, Rating] = {}
    preferred: Literal["A", "B", "same"] | None = None


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """One visit of a listener. screens: the training, then the clips."""

    id: str
    listener: str
    screens: tuple[Screen, ...]


class Sittings:
    """Who listens, and what was answered so far."""

    def __init__(self, test: ListeningTest, answers: Path) -> None:
        self.test, self._path = test, answers
        self._sessions: dict[str, Sitting] = {}
        self._lock = threading.Lock()
        self.sounds = functools.lru_cache(maxsize=32)(self._sounds)
        self._clips = {clip.mixture_id: clip for clip in (*test.clips, test.training)}

    def begin(self, name: str) -> Sitting:
        listener = check_listener(name)
        screens = tuple(self.test.screens(listener))
        session = Sitting(id=secrets.token_urlsafe(12), listener=listener, screens=screens)
        self._sessions[session.id] = session
        return session

    def find(self, session_id: str, number: int) -> tuple[Sitting, Screen]:
        session = self._sessions.get(session_id)
        if session is None:
            what = "the server was started anew since this page began: load the page again, answers are kept"
            raise ApiError(404, "unknown_session", what)
        if not 0 <= number < len(session.screens):
            raise ApiError(404, "not_found", f"there are the screens 0 to {len(session.screens) - 1}")
        return session, session.screens[number]

    def answered(self, listener: str) -> dict[str, Answer]:
        """{clip: the answer that counts} of a listener in this test, also those of other days."""
        with self._lock:
            stored = read_listening(self._path).answers if self._has_answers() else ()
        own = [answer for answer in stored if answer.listener == listener and self._is_of_test(answer)]
        return {clip: answer for (_, clip), answer in last_answers(own).items()}

    def _has_answers(self) -> bool:
        return self._path.exists() and self._path.stat().st_size > 0

    def _is_of_test(self, answer: Answer) -> bool:
        test = self.test
        same = answer.report == test.source.identity and answer.mode == test.mode
        return same and set(answer.order) == set(test.stimuli)

    def store(self, session: Sitting, screen: Screen, reply: Reply) -> None:
        check_reply(reply, screen, self.test)
        names = dict(zip(screen.letters, screen.order, strict=True)) | {REFERENCE: REFERENCE}
        answer = Answer(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            listener=session.listener,
            session=session.id,
            mode=self.test.mode,
            report=self.test.source.identity,
            clip=screen.clip.mixture_id,
            snr_db=screen.clip.snr_db,
            order=screen.order,
            plays={names[letter]: count for letter, count in reply.plays.items()},
            seconds=round(reply.seconds, 1),
            comment=reply.comment.strip(),
            ratings={names[letter]: rating for letter, rating in reply.ratings.items()},
            preferred=None if reply.preferred in (None, SAME) else names[reply.preferred],
        )
        try:
            with self._lock:
                append_answer(self._path, answer)
        except OSError as error:
            what = f"the answer could not be stored ({one_line(error)}): free the disk, then press Next again"
            raise ApiError(507, "not_stored", what) from error

    def _sounds(self, clip: str) -> dict[str, FloatArray]:
        return self.test.sounds(self._clips[clip])


def check_reply(reply: Reply, screen: Screen, test: ListeningTest) -> None:
    """Raises a 422 unless all was heard and all was answered."""
    letters = set(screen.letters)
    known = letters if test.mode == AB else letters | {REFERENCE}
    unheard = sorted(letter for letter in known if not reply.plays.get(letter))
    if unheard or not set(reply.plays) <= known:
        raise ApiError(422, "not_heard", f"listen to all first: {', '.join(unheard) or 'unknown letters'}")
    if test.mode == AB and (reply.preferred is None or reply.ratings):
        raise ApiError(422, "not_answered", "prefer A, B or neither first")
    if test.mode != AB and (set(reply.ratings) != letters or reply.preferred):
        missing = ", ".join(sorted(letters - set(reply.ratings))) or "no letter too many"
        raise ApiError(422, "not_answered", f"rate all first: {missing}")


def build_app(test: ListeningTest, answers: Path) -> FastAPI:
    """The application; answers: the file that they are appended to."""
    app = FastAPI(title="Wave Wizard: listening test", docs_url=None, redoc_url=None, openapi_url=None)
    install_error_handlers(app)
    app.add_middleware(OriginGuard, allowed=(), is_local=True)
    app.add_middleware(RequestLog, send_id=True)
    sittings, rng = Sittings(test, answers), np.random.default_rng()

    @app.post("/api/sessions")
    def begin(beginning: Beginning) -> dict[str, object]:
        try:
            session = sittings.begin(beginning.listener)
            answered = sittings.answered(session.listener)
        except ListeningError as error:
            raise ApiError(422, "bad_listener", str(error)) from None
        return {
            "session": session.id,
            "listener": session.listener,
            "mode": test.mode,
            "letters": list(session.screens[0].letters),
            "sample_rate": test.source.sample_rate,
            "answered": [screen.clip.mixture_id in answered for screen in session.screens[1:]],
        }

    @app.get("/api/sessions/{session_id}/screens/{number}")
    def look(session_id: str, number: int) -> dict[str, object]:
        session, screen = sittings.find(session_id, number)
        answer = sittings.answered(session.listener).get(screen.clip.mixture_id) if number else None
        return {"answer": answer and _by_letter(answer, screen, test.mode)}

    @app.get("/api/sessions/{session_id}/screens/{number}/{letter}")
    def sound(session_id: str, number: int, letter: str) -> Response:
        _, screen = sittings.find(session_id, number)
        if letter == REFERENCE and test.mode != AB:
            name = CLEAN
        elif letter in list(screen.letters):
            name = screen.by_name(letter)
        else:
            raise ApiError(404, "not_found", f"the sounds of a screen are {', '.join(screen.letters)}")
        pcm = as_pcm(sittings.sounds(screen.clip.mixture_id)[name], rng)
        headers = HEADERS | {"Cache-Control": "no-store"}
        return Response(pcm, media_type="application/octet-stream", headers=headers)

    @app.put("/api/sessions/{session_id}/screens/{number}")
    def answer(session_id: str, number: int, reply: Reply) -> dict[str, object]:
        session, screen = sittings.find(session_id, number)
        if number == 0:
            raise ApiError(422, "training", "the training has no answers")
        sittings.store(session, screen, reply)
        answered = sittings.answered(session.listener)
        return {"answered": [screen.clip.mixture_id in answered for screen in session.screens[1:]]}

    add_page(app, PAGE_FOLDER)
    return app


def _by_letter(answer: Answer, screen: Screen, mode: str) -> dict[str, object]:
    """An earlier answer as this page shows it; with another seed, letters are others."""
    if mode == AB:
        preferred = SAME if answer.preferred is None else screen.letter_of(answer.preferred)
        return {"preferred": preferred, "comment": answer.comment}
    ratings = {screen.letter_of(name): rating for name, rating in answer.ratings.items()}
    return {"ratings": ratings, "comment": answer.comment}
