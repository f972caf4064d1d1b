"""`repo-ray rate` as a person uses it: the real command, a real browser, mouse and keyboard."""

import contextlib
import signal
import subprocess
import sys

import pytest
from chromium import BINARY, chromium
from rating_cases import AFTER, BEFORE, SCRIPT, write_run

from repo_ray.serving.rating import load_ratings

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine")


@contextlib.contextmanager
def rate_command(run, *arguments):
    """The address that `repo-ray rate` prints, while it runs; it must end well on Ctrl-C."""
    command = "from repo_ray.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "rate", str(run), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("http://"):
                break
        else:
            raise RuntimeError("".join(lines))
        yield line.strip()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0, rest
        assert rest.splitlines()[-1] == "stopped"
    finally:
        process.kill()
        process.wait(timeout=30)


def shown_sides(browser):
    return [browser.text(f"#{side} blockquote") for side in ("left", "right")]


def assert_fits(browser, width):
    """Nothing is wider than the window. (On phones `innerWidth` grows with the content.)"""
    assert browser.read("document.documentElement.scrollWidth") <= width
    beyond = f"!e.closest('.wide') && e.getBoundingClientRect().right > {width}"
    found = f"[...document.querySelectorAll('main *')].filter(e => {beyond})"
    assert browser.read(f"{found}.map(e => e.outerHTML)") == []


def test_a_person_rates_with_mouse_and_keyboard_goes_back_and_returns(tmp_path):
    run = tmp_path / "run"
    write_run(run, 4, hostile=True)

    def picture(name):  # for people who change the page: pytest keeps the folder a while
        browser.screenshot(tmp_path / f"{name}.png")

    with chromium(tmp_path / "profile") as browser:
        with rate_command(run) as address:
            browser.size(1280, 900)
            browser.open(address)
            picture("start")
            browser.click("#name")
            browser.type("Anna M.")
            browser.press("Enter")
            browser.wait_for_path("/r/anna-m/1")
            picture("first")
            assert_fits(browser, 1280)

            # With the keyboard; incomplete and contradictory answers stay on the page.
            first = shown_sides(browser)
            browser.press("a")
            browser.press("Enter")
            browser.wait("document.getElementById('status').textContent.includes('rating of A')")
            browser.press("2")
            browser.press("8")  # right: 3
            browser.press("p")
            browser.press("Enter")
            browser.wait("document.getElementById('status').textContent.includes('rated B higher')")
            picture("refused")
            assert load_ratings(run) == []
            browser.press("5")
            browser.press("n")
            browser.type("a 5 & a b")  # no shortcuts while writing
            browser.press("Enter")
            browser.wait_for_path("/r/anna-m/2")
            (rating,) = load_ratings(run)
            assert [rating.left.reply, rating.right.reply] == first
            assert (rating.choice, rating.note) == ("left", "a 5 & a b")
            assert (rating.left.rating, rating.left.serious) == (5, False)
            assert (rating.right.rating, rating.right.serious) == (3, True)
            assert 0 < rating.seconds < 120

            # With the mouse.
            browser.click('input[value="both_bad"] + span')
            browser.click('input[name="left"][value="1"] + span')
            browser.click('input[name="right"][value="2"] + span')
            browser.click('input[name="left_serious"]')
            picture("second")
            browser.click("button")
            browser.wait_for_path("/r/anna-m/3")
            assert browser.text("#rated") == "2"

            # Back to the first: it is as it was, and can be changed.
            browser.press("u")
            browser.wait_for_path("/r/anna-m/2")
            browser.click("#back")
            browser.wait_for_path("/r/anna-m/1")
            assert shown_sides(browser) == first
            picture("again")
            assert browser.read("document.querySelector('[name=note]').value") == "a 5 & a b"
            browser.press("b")
            browser.press("1")
            browser.press("Enter")
            browser.wait_for_path("/r/anna-m/3")
            ratings = load_ratings(run)
            assert {r.choice for r in ratings} == {"right", "both_bad"}
            browser.press("s")
            browser.wait_for_path("/r/anna-m/4")

        # The server is gone: the answer stays on the page, with the reason.
        for key in ("g", "3", "9", "Enter"):
            browser.press(key)
        browser.wait("document.getElementById('status').textContent.includes('does not answer')")
        assert browser.read("document.querySelector('[name=left]:checked').value") == "3"
        browser.problems.clear()  # the refused connection itself

        # Started anew, on a phone: it continues with the pair that was skipped.
        with rate_command(run, "--rater", "Anna M.") as address:
            browser.size(390, 844, touch=True)
            browser.open(address)
            browser.wait_for_path("/r/anna-m/3")
            for number, after in ((3, "/r/anna-m/4"), (4, "/r/anna-m")):
                picture(f"narrow-{number}")
                assert_fits(browser, 390)
                browser.click('input[value="both_good"] + span')
                browser.click('input[name="left"][value="4"] + span')
                browser.click('input[name="right"][value="4"] + span')
                browser.click("button")
                browser.wait_for_path(after)
            assert "Thank you" in browser.text("h1")
            picture("done")
            browser.size(320, 700, touch=True)
            browser.open(f"{address}r/anna-m/1")
            assert_fits(browser, 320)
            picture("narrowest")
            browser.size(1280, 900, dark=True)
            picture("dark")

    ratings = load_ratings(run)
    assert len(ratings) == 4
    assert {r.left.column for r in ratings} | {r.right.column for r in ratings} == {BEFORE, AFTER}
    # A reply that is a script was read as text, and the page asked nobody else for anything.
    assert any(SCRIPT in (r.left.reply, r.right.reply) for r in ratings)
    assert browser.problems == []
    own = ("http://127.0.0.1:", "data:,")  # the second is the page's empty icon
    assert [url for url in browser.requests if not url.startswith(own)] == []
