"""The server of the pages: it saves ratings for whoever has the token, and gives nobody anything else."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from cohort_engine.io.exclusions import Rating
from cohort_engine.qc.serve import PageServer
from cohort_engine.store.ratings import forget_ratings, merge_ratings, ratings_of, save_ratings

GIVEN = {"metric": "mtr", "subject": "sub-1", "session": "", "rating": "fail", "reason": "moved", "rater": "AB", "date": "2026-01-31"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    pages = tmp_path / "study_qc"
    (pages / "images").mkdir(parents=True)
    (pages / "index.html").write_text('{"save":""}')
    (pages / "images" / "000000-mask_mt.webp").write_bytes(b"picture")
    (pages / "manifest.json").write_text("{}")
    (tmp_path / "secret.html").write_text("secret")
    with PageServer(str(tmp_path / "study.zarr"), pages, token="right") as running:
        thread = Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server: PageServer, place: str, *, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    connection.request(method, place, body or None, named)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_a_rating_is_saved_and_read_again(server: PageServer) -> None:
    body = json.dumps({"ratings": [GIVEN], "removed": []}).encode()
    assert ask(server, "/right/ratings", method="POST", body=body, X_Token="right") == (200, b'{"kept": 1}')
    assert ratings_of(server.store) == [Rating(**GIVEN)]
    assert json.loads(ask(server, "/right/ratings")[1]) == [GIVEN]
    body = json.dumps({"ratings": [], "removed": [GIVEN]}).encode()
    assert ask(server, "/right/ratings", method="POST", body=body, X_Token="right") == (200, b'{"kept": 0}')


def test_the_page_knows_its_token_and_shows_its_pictures(server: PageServer) -> None:
    assert ask(server, "/right/index.html") == (200, b'{"save":"right"}')
    assert ask(server, "/right/images/000000-mask_mt.webp") == (200, b"picture")


@pytest.mark.parametrize(
    "place", ["/right/../secret.html", "/right/..%2Fsecret.html", "/right/images/..%2f..%2fsecret.html", "/right/manifest.json", "/right//etc/passwd"]
)
def test_nothing_else_of_the_machine_is_given(server: PageServer, place: str) -> None:
    assert ask(server, place)[0] == 404


def test_without_the_token_there_is_nothing(server: PageServer) -> None:
    assert ask(server, "/wrong/index.html")[0] == 403
    assert ask(server, "/index.html")[0] == 403
    body = json.dumps({"ratings": [GIVEN]}).encode()
    assert ask(server, "/right/ratings", method="POST", body=body)[0] == 403
    assert ask(server, "/right/ratings", method="POST", body=body, X_Token="right", Host="evil.example")[0] == 403
    assert ratings_of(server.store) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"ratings": [{"metric": "mtr"}]}', b'{"ratings": [5]}', b'{"ratings": 5}'])
def test_what_is_no_rating_is_refused_and_changes_nothing(server: PageServer, body: bytes) -> None:
    save_ratings(server.store, [Rating("mtr", "a")])
    assert ask(server, "/right/ratings", method="POST", body=body, X_Token="right")[0] in (400, 413)
    assert ratings_of(server.store) == [Rating("mtr", "a")]


def test_it_answers_to_this_machine_alone(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_files_of_others_are_merged_and_a_person_can_be_forgotten(tmp_path: Path) -> None:
    store, other = str(tmp_path / "study.zarr"), tmp_path / "exclude.yml"
    save_ratings(store, [Rating("mtr", "sub-1", rater="AB", date="2026-01-01")])
    other.write_text("dti_fa:\n- sub-2  # moved\n")
    assert {(r.metric, r.subject) for r in merge_ratings(store, [other])} == {("mtr", "sub-1"), ("fa", "sub-2")}
    assert forget_ratings(store, ["1"]) == 1
    assert [r.subject for r in ratings_of(store)] == ["sub-2"]
