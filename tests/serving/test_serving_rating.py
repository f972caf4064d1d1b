"""Pairs, ratings on disk and the preference rows that come of them."""

import json
import threading
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rating_cases import AFTER, BEFORE, plain_row, save_columns, write_run

from repo_ray.data.reader import read_preferences
from repo_ray.records import Message
from repo_ray.serving.rating import load_ratings
from repo_ray.serving.rating.facts import facts
from repo_ray.serving.rating.pairs import load_pairs
from repo_ray.serving.rating.preferences import export_preferences, preferences
from repo_ray.serving.rating.ratings import (
    RatedReply,
    Rating,
    RatingError,
    append_rating,
    rater_name,
    ratings_path,
    read_ratings,
)


def rating(choice, rater="anna", turn=1, replies=("one", "two"), **changes):
    stars = {"left": (4, 2), "right": (2, 4)}.get(choice, (3, 3))
    left, right = (
        RatedReply(column=column, reply=reply, rating=star, serious=False)
        for column, reply, star in zip((BEFORE, AFTER), replies, stars, strict=True)
    )
    values = {
        "rater": rater,
        "set": "online",
        "dialogue_id": "d1",
        "turn": turn,
        "messages": (Message("system", "You negotiate."), Message("user", f"Turn {turn}?")),
        "context": '{"city": "Xiamen"}',
        "left": left,
        "right": right,
        "choice": choice,
        "note": "",
        "seconds": 12.5,
        "time": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return Rating(**(values | changes))


# --- names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("anna", "anna"),
        (" Anna  M. ", "anna-m"),
        ("../../etc/passwd", "etc-passwd"),
        ("Zoë", "zoë"),
        ("王芳", "王芳"),
        ("x" * 99, "x" * 40),
    ],
)
def test_rater_names_fit_a_file_name(text, name):
    assert rater_name(text) == name


@pytest.mark.parametrize("text", ["", "  ", "../..", "___", "\0"])
def test_what_is_no_name_is_refused(text):
    with pytest.raises(RatingError, match="no name"):
        rater_name(text)


@given(st.text())
def test_a_rater_name_stays_as_it_is_and_below_its_folder(text):
    try:
        name = rater_name(text)
    except RatingError:
        return
    assert rater_name(name) == name
    assert not set(name) & set("/\\.\0")
    assert len(f"{name}.jsonl".encode()) < 255


# --- pairs ------------------------------------------------------------------------------


def test_pairs_hold_what_differs_and_count_the_rest(tmp_path):
    rows = [plain_row("d1"), plain_row("d2"), plain_row("d3")]
    save_columns(tmp_path, rows, {BEFORE: ["same ", "two", "three"]})
    other = [rows[0], plain_row("d2", question="Another?"), rows[2], plain_row("d4")]
    save_columns(tmp_path, other, {AFTER: ["same", "2", "3", "4"]})
    pairing = load_pairs(tmp_path, None, seed=0)
    (pair,) = pairing.pairs
    assert (pair.set, pair.dialogue_id, pair.turn) == ("online", "d3", 1)
    assert set(pair.replies) == {(BEFORE, "three"), (AFTER, "3")}
    assert (pairing.same, pairing.unmatched) == (1, 2)  # d2 heard other words, d4 is in one only


def test_all_raters_share_the_order_but_not_the_sides(tmp_path):
    write_run(tmp_path, 60)
    first, again = (load_pairs(tmp_path, None, seed=5).pairs for _ in range(2))
    assert first == again
    turns = [(p.dialogue_id, p.turn) for p in first]
    assert turns != sorted(turns)
    assert turns != [(p.dialogue_id, p.turn) for p in load_pairs(tmp_path, None, seed=6).pairs]
    lefts = {
        rater: [p.sides(rater, 5)[0][0] for p in first] for rater in ("anna", "ben", "chen", "dora")
    }
    assert len({tuple(sides) for sides in lefts.values()}) == 4
    assert lefts["anna"] == [p.sides("anna", 5)[0][0] for p in again]
    count = Counter(column for sides in lefts.values() for column in sides)
    total = sum(count.values())
    assert abs(count[BEFORE] - total / 2) < 4 * (total / 4) ** 0.5  # four standard deviations


def test_usual_columns_are_taken_and_others_have_to_be_named(tmp_path):
    save_columns(tmp_path, [plain_row("d1")], {"base": ["1"], "repo": ["2"], "warm_start": ["3"]})
    (pair,) = load_pairs(tmp_path, None, 0).pairs
    assert [column for column, _ in pair.replies] == ["warm_start", "repo"]
    (pair,) = load_pairs(tmp_path, ("base", "repo"), 0).pairs
    assert [column for column, _ in pair.replies] == ["base", "repo"]
    (tmp_path / "evaluation" / "evaluation-repo.parquet").rename(
        tmp_path / "evaluation" / "evaluation-grpo.parquet"
    )
    with pytest.raises(RatingError, match=r"which two columns.*base, grpo, warm_start"):
        load_pairs(tmp_path, None, 0)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (("base", "nonsense"), "no column 'nonsense': the run has base, copy"),
        (("base", "base"), "itself"),
        (("base", "copy"), "1 replies are the same"),
        (("base", "broken"), "evaluation-broken.parquet"),
    ],
)
def test_columns_that_cannot_be_compared_are_refused(tmp_path, columns, words):
    save_columns(tmp_path, [plain_row("d1")], {"base": ["1"], "copy": ["1"]})
    if "broken" in columns:
        (tmp_path / "evaluation" / "evaluation-broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(RatingError, match=words):
        load_pairs(tmp_path, columns, 0)


def test_a_folder_without_evaluation_is_refused(tmp_path):
    with pytest.raises(RatingError, match="no evaluated replies"):
        load_pairs(tmp_path, None, 0)


def test_facts_of_any_shape_are_laid_out():
    context = {
        "hotel_type": "business",
        "stage": "present_evidence",
        "items": [{"net_price": 410, "ticket": "T1"}, {"ticket": "T2", "note": "<b>"}],
        "quotes": {"T1": 402},
        "agreed": ["T2", "T3"],
        "nothing": [],
        "final": True,
    }
    found = facts(json.dumps(context))
    assert found.single == [
        ("hotel type", "business"),
        ("stage", "present evidence"),
        ("quotes", "T1 402"),
        ("agreed", "T2, T3"),
        ("final", "true"),
    ]
    (table,) = found.tables
    assert table.rows == [
        ("ticket", ["T1", "T2"]),
        ("note", ["", "<b>"]),
        ("net price", ["410", ""]),
    ]
    assert facts(None).single == facts("{}").tables == []


# --- ratings ----------------------------------------------------------------------------


def side(column=BEFORE, rating=3, serious=False):
    return {"column": column, "reply": "one", "rating": rating, "serious": serious}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"choice": "neither"}, "choice: Input should be 'left'"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": 1e9}, "seconds"),
        ({"note": "x" * 2001}, "note"),
        ({"time": "2026-01-02T00:00:00"}, "time: .*timezone"),
        ({"left": side(rating=6)}, "left.rating"),
        ({"left": side(rating=True)}, "left.rating"),
        ({"left": side(serious=1)}, "left.serious"),
        ({"left": side(AFTER)}, "same column"),
        ({"choice": "left", "left": side(rating=2)}, "lower rating"),
        ({"choice": "right", "left": side(rating=4)}, "lower rating"),
        ({"gold": 1}, "gold"),
    ],
)
def test_ratings_that_make_no_sense_are_refused(tmp_path, changes, words):
    path = ratings_path(tmp_path, "anna")
    path.parent.mkdir()
    good = json.loads(rating("both_good").model_dump_json())
    path.write_text(json.dumps(good) + "\n")
    assert len(read_ratings(path)) == 1
    path.write_text(json.dumps(good | changes) + "\n")
    with pytest.raises(RatingError, match=f"row 1: .*{words}"):
        read_ratings(path)


def test_ratings_come_back_as_saved_and_the_last_counts(tmp_path):
    first, second = rating("left"), rating("right", note="once more\nö")
    other = rating("both_bad", turn=2)
    for one in (first, other, second):
        append_rating(ratings_path(tmp_path, "anna"), one)
    append_rating(ratings_path(tmp_path, "ben"), rating("left", "ben"))
    assert load_ratings(tmp_path) == [second, other, rating("left", "ben")]
    lines = (tmp_path / "ratings" / "anna.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["choice"] for line in lines] == ["left", "both_bad", "right"]


def test_swapped_sides_are_the_same_pair_and_new_replies_another():
    one = rating("left")
    swapped = rating("right", left=one.right, right=one.left.model_copy(update={"rating": 5}))
    assert swapped.key == one.key
    assert rating("left", replies=("one", "anew")).key != one.key


def test_nobody_has_rated(tmp_path):
    assert load_ratings(tmp_path) == []


def test_half_a_row_is_not_read_and_goes_with_the_next(tmp_path):
    path = ratings_path(tmp_path, "anna")
    append_rating(path, rating("left"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:70])
    assert list(read_ratings(path).values()) == [rating("left")]
    append_rating(path, rating("right", turn=2))
    assert [r.turn for r in load_ratings(tmp_path)] == [1, 2]
    assert path.read_bytes().startswith(whole)


def test_a_failed_append_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = ratings_path(tmp_path, "anna")
    append_rating(path, rating("left"))
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_rating(path, rating("right", turn=2))
    assert path.read_bytes() == before


def test_ratings_sent_at_once_all_arrive_whole(tmp_path):
    path = ratings_path(tmp_path, "anna")
    path.parent.mkdir()
    note = "n" * 2000

    def send(start):
        for turn in range(start, start + 10):
            append_rating(path, rating("left", turn=turn, note=note))

    threads = [threading.Thread(target=send, args=(10 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {r.turn for r in load_ratings(tmp_path)} == set(range(40))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "row 2.*JSON"),
        (rating("left", turn=2).model_dump_json().replace('"left"', '"none"', 1), "row 2"),
        (rating("left").model_dump_json().replace("12.5", '"12.5"'), "row 2: seconds"),
        (rating("left", "ben").model_dump_json(), "row 2: is a rating of 'ben'"),
        ("", "row 2"),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, words):
    path = ratings_path(tmp_path, "anna")
    append_rating(path, rating("left"))
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RatingError, match=f"anna.jsonl, {words}"):
        load_ratings(tmp_path)


# --- preferences ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "chosen", "source", "ties", "split"),
    [
        (["left"], "one", "rater:anna", 0, 0),
        (["right"], "two", "rater:anna", 0, 0),
        (["both_bad"], None, None, 1, 0),
        (["left", "right"], None, None, 0, 1),
        (["left", "right", "left"], "one", "rater:anna+chen", 0, 0),
        (["left", "both_good"], None, None, 0, 1),
        (["both_good", "both_bad", "left"], None, None, 1, 0),
        (["left", "left", "right", "both_good"], None, None, 0, 1),
    ],
)
def test_majority_of_raters_decides(choices, chosen, source, ties, split):
    names = ("anna", "ben", "chen", "dora")
    found = preferences([rating(c, n) for c, n in zip(choices, names, strict=False)])
    assert (found.ties, found.split, found.empty) == (ties, split, 0)
    assert [(r["chosen"], r["source"]) for r in found.rows] == (
        [(chosen, source)] if chosen else []
    )


def test_sides_do_not_matter_to_the_majority():
    one = rating("left", "anna")
    ben = rating("right", "ben", left=one.right, right=one.left)
    (row,) = preferences([one, ben]).rows
    assert (row["chosen"], row["rejected"]) == ("one", "two")


def test_a_reply_without_words_makes_no_row():
    found = preferences([rating("left", replies=("one", "  "))])
    assert (found.rows, found.empty) == ([], 1)


def test_export_is_a_data_set_that_training_reads(tmp_path):
    path = ratings_path(tmp_path, "anna")
    append_rating(path, rating("left"))
    append_rating(path, rating("left", replies=("one", "three")))  # the same prompt again
    append_rating(path, rating("both_bad", turn=2))
    append_rating(path, rating("right", turn=3))
    out = tmp_path / "preferences.parquet"
    found = export_preferences(tmp_path, out)
    assert (len(found.rows), found.ties) == (3, 1)
    read = read_preferences(out)
    assert [(p.chosen, p.rejected) for p in read] == [
        ("one", "two"),
        ("one", "three"),
        ("two", "one"),
    ]
    assert read[0].source == "rater:anna"
    assert read[0].prompt.messages == rating("left").messages
    assert read[0].prompt.context == {"city": "Xiamen"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["preferences.parquet", "ratings"]


def test_export_without_preferences_or_with_faults_writes_nothing(tmp_path):
    out = tmp_path / "preferences.parquet"
    with pytest.raises(RatingError, match="no preference in 0 ratings"):
        export_preferences(tmp_path, out)
    path = ratings_path(tmp_path, "anna")
    append_rating(path, rating("left"))
    append_rating(path, rating("left", messages=(Message("user", "Other words?"),)))
    append_rating(path, rating("left", replies=("x", "y"), messages=(Message("user", "Third?"),)))
    with pytest.raises(RatingError, match="other messages"):
        export_preferences(tmp_path, out)
    with pytest.raises(RatingError, match=r"\*\.parquet"):
        export_preferences(tmp_path, tmp_path / "preferences.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["ratings"]
