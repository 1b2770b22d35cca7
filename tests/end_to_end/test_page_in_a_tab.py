"""The API in a browser tab: the page and its server in one browser, from a static host below a path."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser import Browser, Visit, artifacts
from edge import Bundle
from links import link
from page_steps import UPLOADED, button, log, open_panel, panel, shell, status
from tab import Site, build_site, host_site, stop_service_worker

pytestmark = pytest.mark.slow

FULL = """(bytes) => {
    const write = FileSystemSyncAccessHandle.prototype.write;
    FileSystemSyncAccessHandle.prototype.write = function (data, options) {
        bytes -= data.length;
        if (bytes < 0) throw new DOMException("no room", "QuotaExceededError");
        return write.call(this, data, options);
    };
}"""
"""Said in the server's worker: only so many bytes can still be written. (A private window knows no other full disk.)"""

START_MS = 60_000
"""Within which Python must have started on a busy machine."""

ASKED = r"status of 404 .*/j/[0-9a-f]{64}(/\w+)?\)$"
"""What Chromium says of asking after a job that nobody has submitted yet."""


@pytest.fixture(scope="module")
def root(edge_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tab")
    said = build_site(edge_bundle, folder)
    print(said)
    assert re.search(r": \d+ files, [\d.]+ MiB, gzipped [\d.]+ MiB", said)
    return folder


@pytest.fixture
def site(root: Path) -> Iterator[Site]:
    """An origin of its own for each test: what a browser keeps of one is not there for another."""
    with host_site(root) as hosted:
        yield hosted


@pytest.fixture(scope="module")
def running(browser: Browser, root: Path) -> Iterator[tuple[Site, Visit]]:
    """A browser with a server in its first tab."""
    with host_site(root) as hosted, opened(browser, hosted) as first:
        yield hosted, first


@pytest.fixture
def near(running: tuple[Site, Visit]) -> Site:
    """For tests to which one server is as good as another."""
    return running[0]


@pytest.fixture
def visit(running: tuple[Site, Visit]) -> Iterator[Visit]:
    """A fresh tab of that browser, nothing wrong in it yet."""
    first = running[1]
    for wrong in (first.console, first.errors, first.failed, first.reports, first.dialogs):
        wrong.clear()
    page = first.context.new_page()
    yield replace(first, page=page)
    for tab in first.context.pages:
        if tab is not first.page:
            tab.close()


@contextmanager
def opened(browser: Browser, site: Site, address: str = "", **options: Any) -> Iterator[Visit]:
    """A visit whose server has started."""
    with browser.visit(address or f"{site.app}/", **options) as visit:
        answers(visit.page)
        yield visit


def answers(page: Page) -> None:
    """Until the server of this browser has answered this page."""
    page.wait_for_selector(".tab-note, #connect", timeout=START_MS)
    ask = "async () => { const r = await fetch(new URL('healthz', document.baseURI)); return r.status }"
    page.wait_for_function(f"async () => (await ({ask})()) === 200", timeout=START_MS)


def call(page: Page, path: str, method: str = "GET", body: Any = None) -> tuple[int, Any]:
    """Ask the server as a script of this page; gives the status and the JSON, or the text."""
    script = """async ([url, method, body]) => {
        const options = body === null ? { method } : { method, body: JSON.stringify(body) };
        const response = await fetch(url, options);
        const text = await response.text();
        try { return [response.status, JSON.parse(text)] } catch { return [response.status, text] }
    }"""
    address = page.evaluate("() => document.querySelector('base')?.href ?? new URL('../', location.href).href")
    code, answer = page.evaluate(script, [address + path, method, body])
    return int(code), answer


def submitted(page: Page, queue: str, job: dict[str, Any]) -> str:
    code, answer = call(page, f"q/{queue}/j", "POST", {"definition": job})
    assert code == 200, answer
    return str(answer["jobId"])


def at_the_machine(visit: Visit, site: Site, queue: str) -> Page:
    """Another tab: a worker by hand, connected."""
    page = visit.context.new_page()
    page.goto(f"{site.app}/tab/hand.html#{queue}")
    expect(page.get_by_role("status")).to_have_text(re.compile("Waiting for a job|You run job"), timeout=START_MS)
    return page


def unique() -> str:
    return f"public-{uuid.uuid4().hex[:8]}"


# --- the first visit -------------------------------------------------------------------------------------------------


def test_the_first_visit_says_what_this_is_and_then_nothing_is_asked_of_a_network(browser: Browser, root: Path) -> None:
    with host_site(root) as site, browser.visit() as visit:
        asked: set[str] = set()
        visit.context.on("request", lambda request: asked.add(request.url))
        visit.page.goto(site.url)
        expect(visit.page.get_by_role("main")).to_contain_text("This tab is the server; nothing leaves it.")
        visit.shot("tab-start")
        visit.page.get_by_role("link", name="Open the queue").click()
        answers(visit.page)
        note = visit.page.locator(".tab-note")
        expect(note).to_contain_text("nothing leaves it")
        assert visit.accessibility() == []
        code, described = call(visit.page, "openapi.json")
        assert code == 200
        assert described["servers"] == [{"url": site.app}]
        assert {url for url in asked if not url.startswith((site.url, "blob:", "data:"))} == set()
        visit.assert_clean()

        site.stop()
        visit.page.reload()
        answers(visit.page)
        expect(note).to_contain_text("nothing leaves it")
        visit.assert_clean()


def test_the_page_may_talk_to_nobody_but_where_it_came_from(visit: Visit, near: Site, root: Path) -> None:
    visit.page.goto(f"{near.app}/")
    with host_site(root) as stranger:
        for script in (
            f"() => fetch('{stranger.url}').then(() => 'reached', () => 'refused')",
            f"() => new Promise((r) => {{ const s = new WebSocket('{stranger.url.replace('http', 'ws')}');"
            " s.onopen = () => r('reached'); s.onerror = () => r('refused') })",
        ):
            assert visit.page.evaluate(script) == "refused"
        assert {report["directive"] for report in visit.reports} == {"connect-src"}


# --- a job -----------------------------------------------------------------------------------------------------------


def test_a_job_waits_is_done_by_hand_in_another_tab_and_its_files_can_be_had(visit: Visit, near: Site) -> None:
    queue = unique()
    visit.page.goto(link(near.app, job=shell("cat /inputs/given.txt"), queue=queue))
    page = visit.page
    open_panel(page, "Inputs")
    inputs = panel(page, "Inputs")
    inputs.locator("input[type=file]").first.set_input_files(
        {"name": "given.txt", "mimeType": "text/plain", "buffer": b"given " * 50_000}
    )
    expect(inputs).to_contain_text("300 kB, uploaded")
    button(page, "Run").click()
    why = page.get_by_role("region", name="Why it waits")
    expect(why).to_contain_text("No worker is connected to this queue.")
    visit.shot("tab-waits")

    with visit.context.expect_page() as opening:
        page.get_by_role("link", name="Be the worker").click()
    hand = opening.value
    expect(hand.get_by_role("status")).to_contain_text("You run job")
    expect(status(page)).to_contain_text("On by-hand-")
    with hand.expect_download() as taken:
        hand.get_by_role("link", name="/inputs/given.txt").click()
    assert taken.value.path().read_bytes() == b"given " * 50_000
    hand.get_by_label("What the container prints").fill("first line\nsecond line")
    button(hand, "Print").click()
    expect(log(page)).to_contain_text("second line")
    hand.screenshot(path=artifacts() / "tab-hand-wide-light.png")
    made = bytes(range(256)) * 4096
    hand.get_by_label("Files in its /outputs").set_input_files(
        {"name": "made.bin", "mimeType": "application/octet-stream", "buffer": made}
    )
    hand.get_by_label("Exit code").fill("0")
    button(hand, "End the job").click()
    expect(hand.get_by_role("status")).to_contain_text("Done. Waiting for a job")
    expect(status(page)).to_contain_text("Complete")
    expect(log(page)).to_contain_text("first line")

    open_panel(page, "Outputs")
    visit.shot("tab-done")
    with page.expect_download() as saved:
        panel(page, "Outputs").get_by_label("Download made.bin").click()
    assert saved.value.path().read_bytes() == made
    visit.assert_clean(but=[UPLOADED, ASKED])


def test_a_job_that_is_stopped_is_taken_from_the_hand(visit: Visit, near: Site) -> None:
    queue = unique()
    visit.page.goto(link(near.app, job=shell("sleep 1000"), queue=queue))
    hand = at_the_machine(visit, near, queue)
    button(visit.page, "Run").click()
    expect(hand.get_by_role("status")).to_contain_text("You run job")
    button(visit.page, "Stop").click()
    expect(hand.get_by_role("status")).to_contain_text("The job was stopped. Waiting for a job")
    expect(status(visit.page)).to_contain_text("Cancelled")
    visit.assert_clean(but=[ASKED])


# --- whatever ends ---------------------------------------------------------------------------------------------------


def test_the_service_worker_may_be_stopped_at_any_time(visit: Visit, near: Site) -> None:
    queue = unique()
    visit.page.goto(link(near.app, job=shell("true"), queue=queue))
    hand = at_the_machine(visit, near, queue)
    stop_service_worker(visit, visit.page)
    button(visit.page, "Run").click()
    expect(hand.get_by_role("status")).to_contain_text("You run job")
    stop_service_worker(visit, visit.page)
    hand.get_by_label("What the container prints").fill("still here")
    button(hand, "Print").click()
    expect(log(visit.page)).to_contain_text("still here")
    assert len(call(hand, f"q/{queue}")[1]["data"]) == 1
    visit.assert_clean(but=[ASKED])


def test_a_tab_that_is_closed_is_a_worker_that_has_left(visit: Visit, near: Site) -> None:
    queue = unique()
    visit.page.goto(f"{near.app}/")
    hand = at_the_machine(visit, near, queue)
    assert len(call(visit.page, f"q/{queue}/status")[1]["localWorkers"]) == 1
    hand.close()
    for _ in range(100):
        if not call(visit.page, f"q/{queue}/status")[1]["localWorkers"]:
            break
        visit.page.wait_for_timeout(50)
    assert not call(visit.page, f"q/{queue}/status")[1]["localWorkers"]


def test_a_stream_comes_as_it_happens_and_a_large_file_goes_through(visit: Visit, near: Site) -> None:
    queue = unique()
    visit.page.goto(f"{near.app}/")
    job_id = submitted(visit.page, queue, shell("true"))
    first = visit.page.evaluate(
        """async (url) => {
            const reader = (await fetch(url)).body.getReader();
            const { value } = await reader.read();
            await reader.cancel();
            return new TextDecoder().decode(value);
        }""",
        f"{near.app}/q/{queue}/j/{job_id}/stream",
    )
    assert first.startswith("event: state")
    told = visit.page.evaluate(
        """async (url) => {
            const data = new Uint8Array(24 << 20).map((_, at) => at * 31);
            const put = await fetch(url, { method: "PUT", body: data });
            const back = new Uint8Array(await (await fetch(url)).arrayBuffer());
            const part = await fetch(url, { headers: { range: "bytes=1000000-1000003" } });
            const few = new Uint8Array(await part.arrayBuffer());
            const isSame = back.length === data.length && back.every((byte, at) => byte === data[at]);
            return [put.status, isSame, part.status, [...few], [...data.slice(1000000, 1000004)]];
        }""",
        f"{near.app}/f/large",
    )
    assert told[:3] == [200, True, 206]
    assert told[3] == told[4]
    visit.assert_clean()


def test_jobs_and_files_are_there_after_the_tab_was_loaded_again_and_closed(browser: Browser, site: Site) -> None:
    queue = unique()
    with opened(browser, site) as visit:
        job_id = submitted(visit.page, queue, shell("true"))
        assert call(visit.page, "f/kept", "PUT", "x" * 700_000)[0] == 200
        visit.page.reload()
        answers(visit.page)
        assert list(call(visit.page, f"q/{queue}")[1]["data"]) == [job_id]

        second = visit.context.new_page()
        second.goto(f"{site.app}/q/{queue}")
        answers(second)
        expect(second.get_by_role("main")).to_contain_text(job_id[:6])
        hand = at_the_machine(visit, site, queue)
        expect(hand.get_by_role("status")).to_contain_text("You run job")
        visit.page.close()  # the server was in it
        answers(second)
        expect(hand.get_by_role("status")).to_contain_text("as before", timeout=START_MS)
        assert list(call(second, f"q/{queue}")[1]["data"]) == [job_id]
        assert call(second, "f/kept") == (200, "x" * 700_000)
        button(hand, "End the job").click()
        expect(second.get_by_role("main")).to_contain_text("Done")
        third = submitted(second, queue, shell("false"))
        expect(second.get_by_role("main")).to_contain_text(third[:6])
        second.locator(f'a[href*="{third}"]').first.click()
        expect(status(second)).to_contain_text(third[:6], timeout=START_MS)  # the server starts again in the new page
        assert second.url.startswith(f"{site.app}/j/{third}#")
        second.go_back()
        expect(second.get_by_role("main")).to_contain_text(third[:6], timeout=START_MS)
        second.screenshot(path=artifacts() / "tab-second-wide-light.png")


def test_everything_can_be_forgotten(browser: Browser, site: Site) -> None:
    queue = unique()
    with opened(browser, site) as visit:
        submitted(visit.page, queue, shell("true"))
        start = visit.context.new_page()
        start.goto(site.url)
        button(start, "Forget everything").click()
        expect(start.get_by_role("status")).to_contain_text("Close the other tabs")
        visit.page.close()
        button(start, "Forget everything").click()
        expect(start.get_by_role("status")).to_have_text("Everything is forgotten.")
        start.goto(f"{site.app}/")
        answers(start)
        assert call(start, f"q/{queue}") == (200, {"data": {}})


def test_a_full_disk_ends_the_server_which_starts_again_with_what_was_kept(browser: Browser, site: Site) -> None:
    queue = unique()
    with opened(browser, site) as visit:
        page = visit.page
        job_id = submitted(page, queue, shell("true"))
        (server,) = page.workers
        server.evaluate(FULL, 8 << 20)
        upload = "async (url) => (await fetch(url, { method: 'PUT', body: new Uint8Array(16 << 20) })).status"
        assert page.evaluate(upload, f"{site.app}/f/large") == 503
        assert any("the browser keeps no more: no room" in words for words in visit.console), visit.console
        answers(page)
        assert list(call(page, f"q/{queue}")[1]["data"]) == [job_id]
        assert call(page, "f/large/exists")[0] == 404
        assert page.evaluate(upload, f"{site.app}/f/large") == 200
