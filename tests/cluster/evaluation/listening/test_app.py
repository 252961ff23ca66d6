"""The server: blind, strict about what was heard, and where a listener left off."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cluster.evaluation.listening.answers import read_listening
from cluster.evaluation.listening.app import PAGE_FOLDER, build_app
from cluster.evaluation.listening.design import REFERENCE, design_test
from cluster.evaluation.listening.source import open_source
from tests.cluster.evaluation.listening.made_reports import write_made_report
from tests.loopback import run_app

LETTERS = "ABCDE"
SECRETS = ("noisy", "one", "two", "anchor", "clean", "test-0", "examples", ".wav")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answers") / "answers.jsonl"


@pytest.fixture(scope="module")
def client(made_report: Path, answers: Path) -> Iterator[httpx.Client]:
    app = build_app(design_test(open_source(made_report)), answers)
    with run_app(app) as host, httpx.Client(base_url=f"http://{host}", timeout=60) as client:
        yield client


def begin(client: httpx.Client, listener: str) -> dict[str, Any]:
    reply = client.post("/api/sessions", json={"listener": listener})
    assert reply.status_code == 200, reply.text
    return reply.json()


def full_reply(**changes: Any) -> dict[str, Any]:
    plays = dict.fromkeys((*LETTERS, REFERENCE), 1)
    ratings = {letter: 10 * place for place, letter in enumerate(LETTERS)}
    return {"plays": plays, "ratings": ratings, "seconds": 12.34, "comment": " fine "} | changes


def path_of(session: dict[str, Any], number: int, name: str = "") -> str:
    return f"/api/sessions/{session['session']}/screens/{number}" + (f"/{name}" if name else "")


def test_nothing_that_the_page_gets_tells_what_a_letter_is(client: httpx.Client) -> None:
    session = begin(client, "blind")
    client.put(path_of(session, 1), json=full_reply())
    replies = [client.get(path_of(session, n)) for n in (0, 1)]
    replies.append(client.put(path_of(session, 1), json=full_reply()))
    replies.append(client.put(path_of(session, 1), json=full_reply(ratings={})))
    for reply in replies:
        told = json.dumps(dict(reply.headers)) + reply.text
        assert not [word for word in SECRETS if word in told.replace("neither", "")], told
    assert not [word for word in SECRETS if word in json.dumps(session)]
    for number in (0, 1, 2, 3):
        sounds = {name: client.get(path_of(session, number, name)) for name in (*LETTERS, REFERENCE)}
        lengths = {len(reply.content) for reply in sounds.values()}
        assert lengths == {2 * int(1.5 * 16_000)}
        own = {"date", "x-request-id"}  # of any reply
        heads = {tuple((k, v) for k, v in r.headers.items() if k not in own) for r in sounds.values()}
        assert len(heads) == 1, "headers differ between sounds"
        assert len({reply.content for reply in sounds.values()}) == len(sounds), "equal bytes tell"


def test_one_of_the_letters_is_the_reference_and_which_one_changes(client: httpx.Client) -> None:
    found = []
    for listener in ("l1", "l2", "l3", "l4"):
        session = begin(client, listener)
        for number in (1, 2, 3):
            pcm = {
                name: np.frombuffer(client.get(path_of(session, number, name)).content, "<i2").astype(float)
                for name in (*LETTERS, REFERENCE)
            }
            near = [x for x in LETTERS if np.abs(pcm[x] - pcm[REFERENCE]).max() <= 4]
            assert len(near) == 1
            found += near
    assert len(set(found)) >= 4


def test_an_answer_is_stored_by_what_was_heard(
    client: httpx.Client, answers: Path, made_report: Path
) -> None:
    test = design_test(open_source(made_report))
    session = begin(client, "anna")
    assert session["letters"] == list(LETTERS)
    assert session["answered"] == [False] * 3
    reply = client.put(path_of(session, 2), json=full_reply())
    assert reply.json() == {"answered": [False, True, False]}
    stored = read_listening(answers).answers[-1]
    screen = test.screens("anna")[2]
    assert (stored.listener, stored.session, stored.clip) == (
        "anna",
        session["session"],
        screen.clip.mixture_id,
    )
    assert (stored.order, stored.report, stored.mode) == (screen.order, test.source.identity, "mushra")
    assert stored.ratings == {name: 10.0 * place for place, name in enumerate(screen.order)}
    assert stored.plays == {**dict.fromkeys(screen.order, 1), REFERENCE: 1}
    assert (stored.seconds, stored.comment, stored.snr_db) == (12.3, "fine", screen.clip.snr_db)


def test_a_listener_goes_on_where_he_was_also_after_a_restart(made_report: Path, tmp_path: Path) -> None:
    path, test = tmp_path / "answers.jsonl", design_test(open_source(made_report))
    for visit in range(4):
        with (
            run_app(build_app(test, path)) as host,
            httpx.Client(base_url=f"http://{host}", timeout=60) as client,
        ):
            session = begin(client, " anna ")
            assert session["answered"] == [n < visit for n in range(3)]
            if visit:
                earlier = client.get(path_of(session, visit)).json()["answer"]
                assert earlier == {"ratings": full_reply()["ratings"], "comment": "fine"}
            if visit < 3:
                client.put(path_of(session, visit + 1), json=full_reply()).raise_for_status()
            assert begin(client, "ben")["answered"] == [False] * 3
            assert client.get(path_of({"session": "of-before"}, 1)).status_code == 404


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"plays": {**full_reply()["plays"], "B": 0}}, "not_heard"),
        ({"plays": dict.fromkeys(LETTERS, 1)}, "not_heard"),
        ({"plays": {**full_reply()["plays"], "X": 1}}, "not_heard"),
        ({"ratings": dict.fromkeys("ABCD", 50)}, "not_answered"),
        ({"ratings": dict.fromkeys("ABCDEF", 50)}, "not_answered"),
        ({"preferred": "A"}, "not_answered"),
        ({"ratings": {**full_reply()["ratings"], "A": 101}}, "invalid_field"),
        ({"ratings": {**full_reply()["ratings"], "A": 0.5}}, "invalid_field"),
        ({"seconds": -1}, "invalid_field"),
        ({"comment": "x" * 2001}, "invalid_field"),
    ],
)
def test_what_is_not_whole_is_refused(
    client: httpx.Client, answers: Path, changes: dict[str, Any], code: str
) -> None:
    session = begin(client, "hasty")
    reply = client.put(path_of(session, 1), json=full_reply(**changes))
    assert reply.status_code == 422
    assert reply.json()["error"]["code"] == code
    assert not answers.exists() or b"hasty" not in answers.read_bytes()


def test_there_is_nothing_beside_the_screens(client: httpx.Client) -> None:
    session = begin(client, "curious")
    for path in (path_of(session, 4), path_of(session, 1, "F"), path_of(session, 1, "clean"), "/docs"):
        assert client.get(path).status_code == 404, path
    assert client.put(path_of(session, 0), json=full_reply()).status_code == 422
    assert client.post("/api/sessions", json={"listener": "<b>"}).json()["error"]["code"] == "bad_listener"


def test_foreign_pages_and_names_are_refused(client: httpx.Client) -> None:
    for headers in ({"Origin": "https://example.org"}, {"Host": "example.org"}):
        for path in ("/", "/api/sessions/x/screens/1"):
            assert client.get(path, headers=headers).status_code == 403, headers
    own = str(client.base_url).rstrip("/")
    assert client.get("/", headers={"Origin": own}).status_code == 200


def test_an_answer_that_cannot_be_stored_is_not_taken_for_stored(made_report: Path, tmp_path: Path) -> None:
    path, test = tmp_path / "folder" / "answers.jsonl", design_test(open_source(made_report))
    with run_app(build_app(test, path)) as host, httpx.Client(base_url=f"http://{host}") as client:
        session = begin(client, "anna")
        reply = client.put(path_of(session, 1), json=full_reply())
        assert reply.status_code == 507
        assert "press Next again" in reply.json()["error"]["message"]
        path.parent.mkdir()
        assert client.put(path_of(session, 1), json=full_reply()).json()["answered"] == [True, False, False]


def test_preferences(made_report: Path, tmp_path: Path) -> None:
    path, test = tmp_path / "answers.jsonl", design_test(open_source(made_report), mode="ab")
    with run_app(build_app(test, path)) as host, httpx.Client(base_url=f"http://{host}") as client:
        session = begin(client, "anna")
        assert session["letters"] == ["A", "B"]
        assert client.get(path_of(session, 1, REFERENCE)).status_code == 404
        reply = {"plays": {"A": 1, "B": 2}, "seconds": 3.0}
        assert client.put(path_of(session, 1), json=reply).status_code == 422
        for number, preferred in ((1, "A"), (2, "same")):
            client.put(path_of(session, number), json={**reply, "preferred": preferred}).raise_for_status()
            assert client.get(path_of(session, number)).json()["answer"]["preferred"] == preferred
    first, second = read_listening(path).answers
    assert first.preferred == test.screens("anna")[1].order[0]
    assert second.preferred is None


def test_the_page_asks_nobody_else_and_holds_no_script_of_its_own(client: httpx.Client) -> None:
    index = client.get("/")
    linked = re.findall(r'(?:href|src)="([^"#]+)"', index.text)
    modules = [f"page/{path.name}" for path in PAGE_FOLDER.glob("*.js")]
    assert {"page/page.js", "page/style.css"} <= set(linked)
    for name in {*linked, *modules}:
        reply = client.get(name)
        assert reply.status_code == 200, name
        assert not set(re.findall(r"\w+://[\w.]+", reply.text)) - {"http://www.w3.org"}, name
    assert "default-src 'none'" in index.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]*src=)|<style|\s(style|on\w+)=", index.text)


def test_clips_of_other_lengths_are_served_whole(tmp_path: Path) -> None:
    folder = write_made_report(tmp_path / "report", seconds=0.3, snrs_db=(0.0,))
    app = build_app(design_test(open_source(folder)), tmp_path / "answers.jsonl")
    with run_app(app) as host, httpx.Client(base_url=f"http://{host}") as client:
        session = begin(client, "anna")
        assert len(client.get(path_of(session, 1, "A")).content) == 2 * int(0.3 * 16_000)
