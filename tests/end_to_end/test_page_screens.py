"""Every screen of the page, as a picture that stays, in each size and theme, and what axe-core says of it.

One visit for each size and theme walks through all screens; what they show was made once, before. A screen must have no
serious finding, fit the width of the window, and cause no report of the page's policy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser import SIZES, THEMES, Browser, Visit
from links import link
from page_steps import button, log, open_panel, own_address, panel, ran, shell, status, submitted
from processes import call, eventually
from served import served
from up import Up

pytestmark = [pytest.mark.slow, pytest.mark.docker]

TEXT = "name,cm\nAda,165\nGrace,168\nAlan,178\n"
SCRIPT = """import csv

with open("/inputs/heights.csv") as file:
    heights = [float(row["cm"]) for row in csv.DictReader(file)]
print(sum(heights) / len(heights))
"""
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="120" height="60"><rect width="90" height="60" fill="teal"/></svg>'
WRITES = f"""
printf '\\033[32mgreen\\033[0m and \\033[1;31mred\\033[0m, a link: https://example.org/a?b=c\\n'
echo something for stderr >&2
for i in 1 2 3 4 5 6 7 8; do echo "step $i of 8: a line of a usual length, as programs print them"; done
cd /outputs; mkdir plots
printf '{TEXT.replace(chr(10), chr(92) + "n")}' > heights.csv
printf '{{"mean": 170.3, "people": ["Ada", "Grace", "Alan"], "more": {{"a": 6.8, "none": null}}}}' > result.json
printf '%s' '{SVG}' > plots/bars.svg
head -c 4200000 /dev/zero > model.bin
"""


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Links to jobs in each state."""

    url: str
    queue: str
    ready: str
    running: str
    done: str
    done_id: str
    failed: str
    waiting: str
    elsewhere: str


@pytest.fixture(scope="module")
def seeds(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeds]:
    files = {"average.py": SCRIPT, "heights.csv": TEXT}
    done = shell(WRITES, env={"NAME": "Ada", "LEVEL": "3"})
    failed = shell("echo reading the table; echo 'no such column: weight' >&2; exit 3")
    running = shell("echo the first line; i=0; while [ $i -lt 900 ]; do i=$((i+1)); echo $i; sleep 1; done")
    waiting = shell("echo never", requirements={"gpus": 2, "memory": "64g"}, tags=["a100"])
    done_id, _ = ran(up, done)
    ran(up, failed)
    ids = [submitted(up.url, up.queue, running), submitted(up.url, up.queue, waiting)]
    eventually("it runs", lambda: _state(up, ids[0]) == "Running")
    with served("--backend", "memory", "--host", own_address(), cwd=tmp_path_factory.mktemp("elsewhere")) as elsewhere:
        yield Seeds(
            url=up.url,
            queue=up.queue,
            ready=link(up.url, job=shell("python /inputs/average.py"), inputs=files, queue=up.queue, terminal="true"),
            running=link(up.url, job=running, queue=up.queue),
            done=link(up.url, job=done, queue=up.queue),
            done_id=done_id,
            failed=link(up.url, job=failed, queue=up.queue),
            waiting=link(up.url, job=waiting, queue=up.queue),
            elsewhere=link(elsewhere.url, job=failed, queue="elsewhere"),
        )
    for job_id in ids:
        call("POST", f"{up.url}/q/{up.queue}/j/{job_id}/cancel")


def _state(up: Up, job_id: str) -> Any:
    return call("GET", f"{up.url}/q/{up.queue}/j/{job_id}")[1]["data"]["job"]["state"]


class Walk:
    """One visit through the screens, and what was wrong at each."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.page: Page = visit.page
        self.wrong: list[str] = []
        self.seen: list[str] = []

    def look(self, name: str) -> None:
        """Take the picture and judge the screen."""
        self.seen.append(name)
        self.visit.shot(f"screen-{len(self.seen):02}-{name}")
        self.wrong += [f"{name}: {found}" for found in self.visit.accessibility()]
        over = self.page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if over > 0:
            self.wrong.append(f"{name}: the page is {over} px wider than the window")

    def close(self) -> None:
        self.page.keyboard.press("Escape")
        expect(self.page.locator(".content-side")).to_have_count(0)


def walk(at: Walk, seeds: Seeds) -> None:
    page = at.page
    page.goto(f"{seeds.url}/")
    expect(page.get_by_role("heading", name="Try one")).to_be_visible()
    at.look("empty")

    page.goto(seeds.ready)
    expect(button(page, "Run")).to_be_enabled()
    at.look("ready")
    open_panel(page, "Inputs")
    expect(panel(page, "Inputs")).to_contain_text("average.py")
    at.look("inputs")
    button(page, "Edit average.py").click()
    expect(page.locator(".cm-content")).to_contain_text("DictReader")
    at.look("editor")
    button(page, "Close editor").click()

    page.goto(seeds.failed)
    expect(status(page)).to_contain_text("Exit code 3")
    expect(log(page)).to_contain_text("no such column")
    at.look("failed")

    page.goto(seeds.waiting)
    expect(page.get_by_role("region", name="Why it waits")).to_contain_text("a100")
    at.look("waiting")

    page.goto(seeds.running)
    expect(status(page)).to_contain_text("Running")
    expect(log(page).locator(".log-row").first).to_be_visible()
    at.look("running")
    open_panel(page, "Queue")
    jobs = panel(page, "Queue").get_by_role("list", name="Jobs")
    jobs.get_by_role("listitem").first.scroll_into_view_if_needed()  # what a row says is fetched when it is seen
    expect(jobs).to_contain_text("alpine:3.19.1")
    at.look("queue-jobs")
    page.get_by_role("tab", name="Workers").click()
    expect(page.get_by_role("list", name="Workers")).to_contain_text("CPU")
    at.look("queue-workers")

    button(page, "Close queue").click()

    page.goto(seeds.done)
    expect(status(page)).to_contain_text("Complete")
    expect(log(page)).to_contain_text("step 8 of 8")
    at.look("done")
    open_panel(page, "Outputs")
    expect(panel(page, "Outputs")).to_contain_text("4.2 MB")
    at.look("outputs")
    for name in ("heights.csv", "result.json", "plots/bars.svg"):
        button(page, f"Look at {name}").click()
        shown = page.get_by_role("dialog").locator("table, [role=tree], img").first
        expect(shown).to_be_visible()
        at.look(f"preview-{name.rpartition('.')[2]}")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    open_panel(page, "Settings")
    for tab in ("Job", "Image", "Definition"):
        page.get_by_role("tab", name=tab, exact=True).click()
        at.look(f"settings-{tab.lower()}")
    open_panel(page, "Share")
    expect(panel(page, "Share")).to_contain_text(seeds.url)
    at.look("share")
    page.get_by_role("tab", name="Python").click()
    at.look("share-python")
    button(page, "Close share").click()
    button(page, "Re-run").click()
    expect(status(page)).to_contain_text("Complete")
    open_panel(page, "History")
    expect(page.get_by_role("list", name="Jobs of this browser")).to_contain_text("Done")
    at.look("history")
    at.close()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Single letters are keys")
    at.look("help")
    page.keyboard.press("Escape")

    page.set_viewport_size({"width": 500, "height": 100})
    expect(button(page, "Re-run")).to_be_visible()
    at.look("minimal")
    width, height = SIZES[at.visit.size]
    page.set_viewport_size({"width": width, "height": height})

    page.goto(seeds.elsewhere)  # a server of this machine would be there without a network, too
    expect(button(page, "Run")).to_be_enabled()
    expect(button(page, "Queue")).to_be_visible()
    expect(page.get_by_text("connecting…")).to_have_count(0)  # a socket cut off before it opens is reported
    at.visit.context.set_offline(True)
    expect(page.get_by_text("You are offline.")).to_be_visible()
    at.look("offline")
    at.visit.context.set_offline(False)
    expect(page.get_by_text("You are offline.")).to_have_count(0)

    page.goto(f"{seeds.url}/#?job=JTdCJTIyaW1h&queue={seeds.queue}")
    expect(page.get_by_role("alert")).to_contain_text("of this link could not be read")
    at.look("malformed")

    page.goto(f"{seeds.url}/j/{seeds.done_id}#?queue={seeds.queue}")
    expect(status(page)).to_contain_text("Complete")
    at.look("job-page")

    page.goto(f"{seeds.url}/q/{seeds.queue}")
    expect(page.get_by_role("list", name="Jobs")).to_contain_text("alpine:3.19.1")
    expect(page.get_by_role("heading", name="The last hour")).to_be_visible()
    expect(page.locator(".queue-page-charts")).to_be_visible()
    head, below = (page.locator(".queue-page > *").nth(at).bounding_box() for at in (0, 1))
    assert head is not None
    assert below is not None
    assert head["y"] + head["height"] <= below["y"], "the head lies on what is below it"
    at.look("queue-page")


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
def test_every_screen(browser: Browser, seeds: Seeds, size: str, theme: str) -> None:
    began = time.monotonic()
    with browser.visit(size=size, theme=theme) as visit:
        at = Walk(visit)
        walk(at, seeds)
        print(f"{len(at.seen)} screens in {time.monotonic() - began:.1f} s")
        assert at.wrong == []
        visit.assert_clean(but=["ERR_INTERNET_DISCONNECTED"])
