"""The examples of an empty page: each is pressed in a real browser, and run by a real worker on a real engine.

No registry is asked: the images that the examples name are made of this machine, under the names that they have there.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from browser import Browser
from docker_engine import DockerEngine
from links import link
from machine_images import import_python
from page_steps import UPLOADED, button, log, open_panel, panel, parameter, status
from up import Up

pytestmark = [pytest.mark.slow, pytest.mark.docker]

PYTHON_IMAGE = "python:3.12-alpine"
PEOPLE = 5
"""Rows of the table that the example in Python reads."""


@pytest.fixture(scope="module", autouse=True)
def python_image(docker_engine: DockerEngine) -> None:
    """Unless the engine is one that was given, and has it."""
    if docker_engine.request("GET", f"/images/{PYTHON_IMAGE}/json")[0] != 200:
        import_python(docker_engine, name=PYTHON_IMAGE)


def says_hello(page: Page) -> None:
    expect(log(page)).to_contain_text("hello world")


def reads_a_table_and_leaves_files(page: Page) -> None:
    expect(log(page)).to_contain_text(f"'people': {PEOPLE}, 'mean': 172.8")
    open_panel(page, "Outputs")
    expect(panel(page, "Outputs").get_by_role("listitem")).to_have_count(2)
    dialog = page.get_by_role("dialog")
    button(page, "Look at result.json").click()
    expect(dialog.get_by_role("tree")).to_contain_text("172.8")
    button(dialog, "Close").click()
    button(page, "Look at heights.svg").click()
    picture = dialog.get_by_role("img", name="heights.svg")
    expect(picture).to_be_visible()
    assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth > 0)")


def builds_its_image(page: Page) -> None:
    expect(log(page)).to_contain_text(re.compile(r"built for \w+ at .* UTC"))


DOES: dict[str, Callable[[Page], None]] = {
    "Say hello": says_hello,
    "Python, with files": reads_a_table_and_leaves_files,
    "Build an image": builds_its_image,
}


def offered(page: Page) -> list[str]:
    """Titles of the examples on the page."""
    titles = page.locator(".start-examples strong")
    expect(titles.first).to_be_visible()
    return [title.strip() for title in titles.all_inner_texts()]


def test_all_that_is_offered_is_tried_here(browser: Browser, up: Up) -> None:
    with browser.visit(link(up.url, queue=up.queue)) as visit:
        assert offered(visit.page) == list(DOES)
        visit.assert_clean()


@pytest.mark.parametrize("title", DOES)
def test_an_example_runs_at_one_press(title: str, browser: Browser, up: Up) -> None:
    with browser.visit(link(up.url, queue=up.queue)) as visit:
        page = visit.page
        page.get_by_role("link", name=title).click()
        expect(status(page)).to_contain_text("Complete", timeout=60_000)
        expect(status(page)).to_contain_text("Exit code 0")
        DOES[title](page)
        visit.shot(f"example-{title.split()[0].strip(',').lower()}")
        visit.assert_clean(but=[UPLOADED])


def test_without_a_queue_an_example_waits_for_one(browser: Browser, up: Up) -> None:
    with browser.visit(up.url) as visit:
        page = visit.page
        page.get_by_role("link", name="Say hello").click()
        name = page.get_by_label("Name of the queue")
        name.fill(up.queue)
        name.press("Enter")
        assert parameter(page, "queue") == up.queue
        page.get_by_role("button", name=re.compile("^(Run|Re-run)")).click()  # it may have run in this queue before
        expect(status(page)).to_contain_text("Complete")
        says_hello(page)
        visit.assert_clean()
