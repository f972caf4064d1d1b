"""The rating page's server, without a browser: blindness, safety, saving, coming back."""

import json
import re
from html.parser import HTMLParser

import pytest
from rating_cases import AFTER, BEFORE, SCRIPT, plain_row, save_columns, write_run
from starlette.testclient import TestClient

from repo_ray.serving.rating import load_ratings
from repo_ray.serving.rating.pairs import load_pairs
from repo_ray.serving.rating.server import RatingServer

TOKEN = "the-token"
ROOT = f"/{TOKEN}"
PAIRS = 8


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path, PAIRS, hostile=True)
    return tmp_path


def serve(run, seed=0, rater=None, host="127.0.0.1", base_url="http://127.0.0.1:8000"):
    pairs = load_pairs(run, None, seed).pairs
    server = RatingServer(run, pairs, token=TOKEN, host=host, rater=rater, seed=seed)
    return TestClient(server.app, base_url=base_url, raise_server_exceptions=False)


class Page(HTMLParser):
    """What a browser would see of a pair: texts of the replies, tags, what is checked."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.replies, self.checked, self.shown = [], [], [], None
        self._inside = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self._inside = tag
        if tag == "blockquote":
            self.replies.append("")
        if "checked" in attrs:
            self.checked.append((attrs["name"], attrs.get("value", "on")))
        self.shown = attrs.get("data-shown", self.shown)

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "blockquote":
            self.replies[-1] += data


def page(client, number, rater="anna"):
    response = client.get(f"{ROOT}/r/{rater}/{number}")
    assert response.status_code == 200
    return Page(response.text)


def answer(shown, choice="both_good", left=3, right=3, **changes):
    marks = {
        "left": {"rating": left, "serious": False},
        "right": {"rating": right, "serious": True},
    }
    return {"choice": choice, **marks, "note": "", "seconds": 4.5, "shown": shown} | changes


def save(client, number, rater="anna", **values):
    shown = page(client, number, rater).shown
    return client.post(f"{ROOT}/r/{rater}/{number}", json=answer(shown, **values))


# --- blindness --------------------------------------------------------------------------


def test_nothing_that_is_sent_names_a_column(run):
    """Every address, before and after rating, all headers and bodies, refusals included."""
    client = serve(run)
    sent = [client.get(f"{ROOT}{path}") for path in ("/", "/style.css", "/page.js", "/?name=.")]
    for rater in ("anna", "ben"):
        for number in range(1, PAIRS + 1):
            sent.append(client.get(f"{ROOT}/r/{rater}/{number}"))
            sent.append(save(client, number, rater))
            sent.append(client.get(f"{ROOT}/r/{rater}/{number}"))
            sent.append(client.post(f"{ROOT}/r/{rater}/{number}", json={"left": BEFORE}))
        sent.append(client.get(f"{ROOT}/r/{rater}"))
    assert sum(response.status_code == 200 for response in sent) == 4 + 2 * (3 * PAIRS + 1)
    everything = "\n".join(r.text + str(r.headers) + str(r.url) for r in sent)
    for word in (BEFORE, AFTER, "quagga", "zebra", str(run), "gold", "evaluation-"):
        assert word not in everything
    assert {r.left.column for r in load_ratings(run)} == {BEFORE, AFTER}  # they were saved though


def test_both_columns_appear_on_either_side_and_are_saved_as_shown(run):
    client = serve(run)
    shown = {}
    for number in range(1, PAIRS + 1):
        left, right = page(client, number).replies
        shown[frozenset((left, right))] = left
        assert save(client, number, choice="left", left=5, right=1).status_code == 200
    ratings = load_ratings(run)
    assert len(ratings) == PAIRS
    texts = {
        (pair.dialogue_id, pair.turn, column): text
        for pair in load_pairs(run, None, 0).pairs
        for column, text in pair.replies
    }
    for one in ratings:
        assert one.left.reply == shown[frozenset((one.left.reply, one.right.reply))]
        for side in (one.left, one.right):
            assert texts[one.dialogue_id, one.turn, side.column] == side.reply
        assert (one.left.rating, one.left.serious) == (5, False)
        assert (one.right.rating, one.right.serious) == (1, True)
    assert {one.left.column for one in ratings} == {BEFORE, AFTER}


# --- safety -----------------------------------------------------------------------------


def test_texts_are_shown_as_text(run):
    client = serve(run)
    (found,) = (p for n in range(1, PAIRS + 1) if SCRIPT in (p := page(client, n)).replies)
    assert found.tags.count("script") == 1  # the page's own
    assert "img" not in found.tags


def test_dialogue_and_facts_are_escaped_too(tmp_path):
    row = plain_row("d1", question=SCRIPT) | {
        "context": json.dumps({SCRIPT: SCRIPT, "items": [{SCRIPT: SCRIPT}], "q": {SCRIPT: 1}})
    }
    save_columns(tmp_path, [row], {BEFORE: [SCRIPT + "1"], AFTER: [SCRIPT + "2"]})
    client = serve(tmp_path)
    save(client, 1, note=f'"><b>{SCRIPT}')
    tags = page(client, 1).tags
    assert tags.count("script") == 1
    assert "img" not in tags
    assert tags.count("b") == 1  # the page's own


def test_every_answer_forbids_inline_code_and_framing(run):
    client = serve(run)
    for path in (f"{ROOT}/", f"{ROOT}/r/anna/1", "/elsewhere"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/r/anna/1", "/the-toke/", "/the-token2/"])
def test_nothing_is_served_without_the_token(run, path):
    assert serve(run).get(path).status_code == 404


@pytest.mark.parametrize(
    ("bound", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8000", 200),
        ("127.0.0.1", "localhost:9000", 200),  # a tunnel has another port
        ("127.0.0.1", "[::1]:8000", 200),
        ("127.0.0.1", "rebound.example:8000", 421),
        ("127.0.0.1", "localhost.example", 421),
        ("127.0.0.1", "192.168.1.7:8000", 421),
        ("127.0.0.1", "[::1", 421),
        ("127.0.0.1", "", 421),
        ("0.0.0.0", "192.168.1.7:8000", 200),
        ("0.0.0.0", "rebound.example:8000", 421),
        ("Lab.example", "lab.example:8000", 200),
    ],
)
def test_other_hosts_are_refused(run, bound, host, status):
    response = serve(run, host=bound).get(f"{ROOT}/r/anna/1", headers={"host": host})
    assert response.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_other_sites_cannot_send_ratings(run, headers, status):
    client = serve(run)
    body = json.dumps(answer(page(client, 1).shown))
    headers = {"content-type": "application/json"} | headers
    assert client.post(f"{ROOT}/r/anna/1", content=body, headers=headers).status_code == status
    assert len(load_ratings(run)) == (status == 200)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"choice": "A"}, "choice"),
        ({"left": {"rating": 0, "serious": False}}, "left.rating"),
        ({"left": {"rating": 3}}, "left.serious"),
        ({"left": {"rating": 3, "serious": False, "column": BEFORE}}, "left.column"),
        ({"choice": "left", "left": {"rating": 2, "serious": False}}, "lower rating"),
        ({"note": "x" * 2001}, "note"),
        ({"seconds": -3}, "seconds"),
        ({"shown": None}, "shown"),
    ],
)
def test_bad_answers_are_refused_with_a_reason(run, changes, words):
    client = serve(run)
    body = answer(page(client, 1).shown) | changes
    response = client.post(f"{ROOT}/r/anna/1", json=body)
    assert response.status_code == 422
    assert words in response.json()["error"]
    assert load_ratings(run) == []


def test_a_body_beyond_all_measure_is_refused(run):
    headers = {"content-type": "application/json"}
    response = serve(run).post(f"{ROOT}/r/anna/1", content=b" " * 10**6, headers=headers)
    assert response.status_code == 413


def test_an_answer_about_other_texts_is_refused(run):
    client = serve(run)
    response = client.post(f"{ROOT}/r/anna/2", json=answer(page(client, 1).shown))
    assert response.status_code == 409
    assert load_ratings(run) == []


@pytest.mark.parametrize(
    "path", ["/r/anna/0", f"/r/anna/{PAIRS + 1}", "/r/Anna/1", "/r/..%2F..%2Fx/1", "/r/-/1"]
)
def test_unknown_pairs_and_names_are_not_found(run, path):
    assert serve(run).get(ROOT + path).status_code == 404


# --- names, progress, coming back -------------------------------------------------------


def test_the_page_asks_for_a_name_and_takes_it(run):
    client = serve(run)
    assert 'name="name"' in client.get(f"{ROOT}/").text
    response = client.get(f"{ROOT}/?name=Zoë+M.", follow_redirects=False)
    assert response.headers["location"] == f"{ROOT}/r/zo%C3%AB-m"
    assert "zoë-m" in client.get(f"{ROOT}/?name=Zoë+M.").text
    assert "no name" in client.get(f"{ROOT}/?name=...").text


def test_a_server_for_one_rater_serves_no_other(run):
    client = serve(run, rater="Anna")
    assert client.get(f"{ROOT}/").url.path == f"{ROOT}/r/anna/1"
    assert client.get(f"{ROOT}/r/ben/1").status_code == 404


def rated(client, number, rater="anna"):
    text = client.get(f"{ROOT}/r/{rater}/{number}").text
    return int(re.search(r'<b id="rated">(\d+)</b>', text).group(1))


def test_rating_goes_on_where_it_stopped_on_another_server_too(run):
    client = serve(run)
    assert client.get(f"{ROOT}/r/anna").url.path.endswith("/anna/1")
    assert save(client, 1).json() == {"next": f"{ROOT}/r/anna/2"}
    assert save(client, 3).json() == {"next": f"{ROOT}/r/anna/4"}  # 2 was skipped
    assert rated(client, 4) == 2
    assert rated(client, 4, "ben") == 0
    again = serve(run)
    assert again.get(f"{ROOT}/r/anna").url.path.endswith("/anna/2")
    for number in range(4, PAIRS + 1):
        last = save(again, number)
    assert last.json() == {"next": f"{ROOT}/r/anna/2"}  # back to the one that was skipped
    assert save(again, 2).json() == {"next": f"{ROOT}/r/anna"}
    assert "Thank you, anna" in again.get(f"{ROOT}/r/anna").text
    assert {r.rater for r in load_ratings(run)} == {"anna"}


def test_a_rated_pair_comes_back_as_it_was_rated_and_can_be_changed(run):
    client = serve(run)
    before = page(client, 1).replies
    save(client, 1, choice="right", left=2, right=5, note="ok & <fine>")
    # Another seed draws other sides; what was rated keeps its own.
    for seed in range(4):
        other = serve(run, seed)
        (at,) = (n for n in range(1, PAIRS + 1) if set(page(other, n).replies) == set(before))
        again = page(other, at)
        assert again.replies == before
        assert again.checked == [
            ("choice", "right"),
            ("left", "2"),
            ("right", "5"),
            ("right_serious", "on"),
        ]
    save(client, 1, choice="left", left=4, right=1)
    (kept,) = load_ratings(run)
    assert (kept.choice, kept.note, kept.seconds) == ("left", "", 4.5)
    assert len((run / "ratings" / "anna.jsonl").read_text().splitlines()) == 2


def test_new_replies_are_asked_about_again(run):
    client = serve(run)
    for number in range(1, PAIRS + 1):
        save(client, number)
    write_run(run, PAIRS, hostile=False)  # one reply is another one now
    again = serve(run)
    unrated = [n for n in range(1, PAIRS + 1) if not page(again, n).checked]
    assert len(unrated) == 1
    assert len(load_ratings(run)) == PAIRS


def test_a_broken_file_is_told_and_not_written_to(run):
    client = serve(run)
    shown = page(client, 1).shown
    path = run / "ratings" / "anna.jsonl"
    path.parent.mkdir()
    path.write_text("{}\n")
    response = client.post(f"{ROOT}/r/anna/1", json=answer(shown))
    assert response.status_code == 500
    assert "anna.jsonl, row 1" in response.json()["error"]
    assert "anna.jsonl, row 1" in client.get(f"{ROOT}/r/anna/1").text
    assert path.read_text() == "{}\n"
