"""What the page says of a job that does not start, of a lost connection and of a broken link, and what one can do."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, Route, WebSocketRoute, expect

from browser import Browser, Visit
from links import decoded, encoded, link
from page_steps import button, log, open_panel, own_address, panel, parameter, shell, status, submitted
from processes import Process, call, eventually, server
from served import Served, served
from up import Up

pytestmark = [pytest.mark.slow, pytest.mark.docker]

LOST = r"ERR_INTERNET_DISCONNECTED|ERR_CONNECTION_REFUSED|WebSocket connection|Failed to load resource: net::"
"""What Chromium says of a server that is not there."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that no worker is connected to, at an address that is out of reach without a network."""
    with served("--backend", "memory", "--host", own_address(), cwd=tmp_path_factory.mktemp("alone")) as started:
        yield started


# --- why it waits ----------------------------------------------------------------------------------------------------


def test_a_job_that_no_worker_fits_says_which_rule_fails(browser: Browser, up: Up) -> None:
    job = shell("true", requirements={"gpus": 3, "memory": "900g"}, tags=["tag-of-nobody"])
    with browser.visit(link(up.url, job=job, queue=up.queue)) as visit:
        button(visit.page, "Run").click()
        why = visit.page.get_by_role("region", name="Why it waits")
        expect(why).to_contain_text("The worker of this queue does not fit.")
        expect(why).to_contain_text("It asks for 3 GPUs; the worker has none.")
        expect(why).to_contain_text("It asks for 900 GiB of memory")
        expect(why).to_contain_text("tag-of-nobody")
        expect(why).to_contain_text(f"--server {up.url}")
        button(visit.page, "Stop").click()
        expect(status(visit.page)).to_contain_text("Cancelled")
        expect(why).to_have_count(0)
        visit.assert_clean()


def test_a_queue_without_a_worker_shows_the_command_that_starts_one(browser: Browser, up: Up, tmp_path: Path) -> None:
    """And the command works: what it starts takes the job."""
    queue = f"public-{uuid.uuid4().hex}"  # a name that need not be hidden
    with browser.visit(link(up.url, job=shell("echo it has begun"), queue=queue)) as visit:
        button(visit.page, "Run").click()
        why = visit.page.get_by_role("region", name="Why it waits")
        expect(why).to_contain_text("No worker is connected to this queue.")
        words = why.locator("pre").first.inner_text().split()
        assert words == ["asman", "worker", queue, "--server", up.url]
        with Process(*words[1:], "--data-directory", str(tmp_path), env={"DOCKER_HOST": up.docker_host}):
            expect(log(visit.page)).to_contain_text("it has begun", timeout=60_000)
            expect(status(visit.page)).to_contain_text("Complete")
            expect(why).to_have_count(0)
        visit.assert_clean()


# --- bad networks ----------------------------------------------------------------------------------------------------


def _submits(visit: Visit) -> list[str]:
    """The bodies of all submits from now on, whether they arrive or not."""
    sent: list[str] = []

    def note(request: Request) -> None:
        if request.method == "POST" and re.search(r"/q/[^/]+(/j)?$", request.url):
            sent.append(request.post_data or "")

    visit.context.on("request", note)
    return sent


def test_a_submit_made_offline_waits_and_is_sent_once(browser: Browser, alone: Served) -> None:
    queue = uuid.uuid4().hex
    job = shell("true")
    with browser.visit(link(alone.url, job=job, queue=queue)) as visit:
        page = visit.page
        expect(button(page, "Run")).to_be_enabled()
        visit.context.set_offline(True)
        expect(page.get_by_text("You are offline.")).to_be_visible()
        sent = _submits(visit)
        button(page, "Run").click()
        expect(status(page)).to_contain_text("Waits for the connection")
        expect(button(page, "Waits")).to_be_disabled()
        page.keyboard.press("Control+Enter")  # an impatient person
        assert call("GET", f"{alone.url}/q/{queue}")[1]["data"] == {}
        visit.context.set_offline(False)
        expect(status(page)).to_contain_text("Queued")
        expect(page.get_by_text("You are offline.")).to_have_count(0)
        (job_id,) = call("GET", f"{alone.url}/q/{queue}")[1]["data"]
        assert call("GET", f"{alone.url}/q/{queue}/j/{job_id}")[1]["data"]["definition"]["env"] == job["env"]
        assert len(sent) == 1
        visit.assert_clean(but=[LOST])


def test_a_submit_made_offline_survives_a_reload(browser: Browser, tmp_path: Path, free_port: int) -> None:
    """The server is away; the page, which it serves, is opened again once it is back, and sends what waited."""
    queue = uuid.uuid4().hex
    with browser.visit() as visit:
        with server(free_port, tmp_path) as url:
            visit.page.goto(link(url, job=shell("true"), queue=queue))
            expect(button(visit.page, "Run")).to_be_enabled()
        button(visit.page, "Run").click()
        expect(status(visit.page)).to_contain_text("Waits for the connection")
        address = visit.page.url
        visit.page.goto("about:blank")
        with server(free_port, tmp_path) as url:
            sent = _submits(visit)
            visit.page.goto(address)
            expect(status(visit.page)).to_contain_text("Queued")
            visit.page.reload()
            expect(status(visit.page)).to_contain_text("Queued")
            jobs = call("GET", f"{url}/q/{queue}")[1]["data"]
            assert [job["generation"] for job in jobs.values()] == [1]
            assert len(sent) == 1
        visit.assert_clean(but=[LOST])


def test_an_answer_that_is_lost_submits_nothing_twice(browser: Browser, alone: Served) -> None:
    """The submit arrives, its answer does not: the page sends it again, and the server has one job of one run."""
    queue = uuid.uuid4().hex
    with browser.visit() as visit:
        lost: list[int] = []

        def lose(route: Route, request: Request) -> None:
            if request.method == "POST" and not lost:
                lost.append(route.fetch().status)
                route.abort("connectionreset")
            else:
                route.continue_()

        visit.page.route(f"**/q/{queue}*", lose)
        visit.page.goto(link(alone.url, job=shell("true"), queue=queue))
        button(visit.page, "Run").click()
        expect(status(visit.page)).to_contain_text("Queued")
        eventually("one job is there", lambda: len(call("GET", f"{alone.url}/q/{queue}")[1]["data"]) == 1)
        (job,) = call("GET", f"{alone.url}/q/{queue}")[1]["data"].values()
        assert lost in ([200], [201]), "it had arrived"
        assert job["generation"] == 1
        visit.assert_clean(but=[LOST, "ERR_CONNECTION_RESET"])


def test_a_socket_that_breaks_is_said_and_opened_again(browser: Browser, up: Up) -> None:
    open_sockets: list[WebSocketRoute] = []
    with browser.visit() as visit:

        def join(socket: WebSocketRoute) -> None:
            open_sockets.append(socket)
            if len(open_sockets) == 2:
                socket.close(code=1013, reason="not now")  # refused once more, so that the state can be seen
            else:
                socket.connect_to_server()

        visit.page.route_web_socket(re.compile(r"/client"), join)
        visit.page.goto(link(up.url, job=shell("echo after-the-break"), queue=up.queue))
        expect(button(visit.page, "Queue")).to_have_accessible_name(re.compile("1 worker"))
        open_sockets[0].close(code=1001, reason="gone")
        expect(visit.page.get_by_text("reconnecting")).to_be_visible()
        expect(visit.page.get_by_text("reconnecting")).to_have_count(0, timeout=30_000)
        button(visit.page, "Run").click()
        expect(log(visit.page)).to_contain_text("after-the-break")
        expect(status(visit.page)).to_contain_text("Complete")
        visit.assert_clean(but=[LOST])


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        ("job=JTdCJTIyaW1h", "job"),
        ("job=%E0%A4%A", "job"),
        ("job=WyJhIl0%3D", "job"),
        ("inputs=bm90IGpzb24%3D", "inputs"),
        (f"inputs={encoded({'a': 1})}", "inputs"),
        ("definition=%%%", "definition"),
    ],
)
def test_a_broken_link_says_which_part_and_uses_the_rest(browser: Browser, up: Up, broken: str, name: str) -> None:
    whole = "" if name == "job" else f"&job={encoded(shell('echo the-rest-is-used'))}"
    with browser.visit(f"{up.url}/#?{broken}{whole}&queue={up.queue}") as visit:
        alert = visit.page.get_by_role("alert")
        expect(alert).to_contain_text("A part of this link could not be read.")
        expect(alert).to_contain_text(f"“{name}”")
        if whole:
            button(visit.page, "Run").click()
            expect(log(visit.page)).to_contain_text("the-rest-is-used")
        else:
            expect(visit.page.get_by_role("heading", name="Try one: it runs at once")).to_be_visible()
        visit.assert_clean()


def _shared_id(page: Page) -> str:
    """The id of the job that the page would submit: what the server answers to a dry run of its own snippet."""
    found = re.search(r"curl -sS (\S+) .*--data-binary '(.*)'", _snippet(page, "curl"), re.DOTALL)
    assert found is not None
    url, body = found.groups()
    return str(call("POST", f"{url}?dry_run=1", json.loads(body.replace("'\\''", "'")))[1]["jobId"])


def _snippet(page: Page, tab: str) -> str:
    open_panel(page, "Share")
    page.get_by_role("tab", name=tab, exact=True).click()
    whole = panel(page, "Share").get_by_role("button", name=re.compile("^Show all"))
    if whole.count():  # a long link is shown by its beginning
        whole.first.click()
    return panel(page, "Share").locator("pre").first.inner_text()


def test_a_change_of_the_settings_changes_the_link_and_the_id(browser: Browser, up: Up) -> None:
    job = {"image": "alpine:3.19.1", "command": f"echo {uuid.uuid4().hex}"}
    with browser.visit(link(up.url, job=job, queue=up.queue)) as visit:
        page = visit.page
        before = _shared_id(page)
        open_panel(page, "Settings")
        settings = panel(page, "Settings")
        settings.get_by_label("Command").fill("echo changed-in-the-settings")
        button(settings, "Add a variable").click()
        page.keyboard.type("NAME=a=b")
        settings.get_by_label("CPU cores").fill("0.5")
        settings.get_by_label("CPU cores").press("Enter")
        expect(settings).to_contain_text("Saved to the link")
        assert decoded(parameter(page, "job")) == {
            "command": "echo changed-in-the-settings",
            "env": {"NAME": "a=b"},
            "image": "alpine:3.19.1",
            "requirements": {"cpus": 0.5},
        }
        after = _shared_id(page)
        assert after != before
        button(page, "Run").click()
        expect(log(page)).to_contain_text("changed-in-the-settings")
        expect(page.locator(".status-id")).to_have_attribute("href", re.compile(after))
        open_panel(page, "Settings")
        while (undo := button(page, "Undo")).count():
            undo.click()
        assert decoded(parameter(page, "job")) == job
        visit.assert_clean()


def test_what_is_shared_holds_the_job(browser: Browser, up: Up) -> None:
    said = uuid.uuid4().hex
    job = {"image": "alpine:3.19.1", "command": f"echo {said}", "env": {"QUOTED": 'it\'s "quoted" & <b>'}}
    allowed = ["clipboard-read", "clipboard-write"]
    with browser.visit(link(up.url, job=job, queue=up.queue), permissions=allowed) as visit:
        page = visit.page
        shared = _snippet(page, "Link")
        assert shared == page.url
        button(page, "Copy: This page").click()
        assert page.evaluate("() => navigator.clipboard.readText()") == page.url
        assert page.url.replace("&", "&amp;") in _snippet(page, "Embed")
        for tab in ("curl", "Command line", "Python", "JavaScript"):
            assert said in _snippet(page, tab)
            assert up.queue in _snippet(page, tab)
        page.get_by_label("Leave the queue out").check()
        for tab in ("Link", "Embed", "curl", "Command line", "Python", "JavaScript"):
            assert up.queue not in _snippet(page, tab)
        second = visit.context.new_page()
        second.goto(shared)
        button(second, "Run").click()
        expect(log(second)).to_contain_text(said)
        visit.assert_clean()


# --- keys and history ------------------------------------------------------------------------------------------------


def test_the_keys_do_what_the_help_says(browser: Browser, up: Up) -> None:
    with browser.visit(link(up.url, job=shell("echo by-the-keyboard"), queue=up.queue)) as visit:
        page = visit.page
        expect(button(page, "Run")).to_be_enabled()
        page.keyboard.press("?")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Run, re-run, or save and run")
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        page.keyboard.press("s")
        expect(panel(page, "Settings")).to_be_visible()
        page.keyboard.press("Escape")
        expect(panel(page, "Settings")).to_have_count(0)
        page.keyboard.press("Control+Enter")
        expect(log(page)).to_contain_text("by-the-keyboard")
        expect(status(page)).to_contain_text("Complete")
        page.keyboard.press("/")
        page.keyboard.type("keyboard")
        expect(page.locator("mark.current")).to_have_text("keyboard")
        page.keyboard.press("Escape")
        expect(page.locator("mark")).to_have_count(0)
        visit.assert_clean()


def test_a_key_right_after_the_help_closed_opens_its_panel(browser: Browser, up: Up) -> None:
    """The browser tells that a dialog closed a moment after it did: a quick key must not be undone by that."""
    with browser.visit(link(up.url, job=shell("true"), queue=up.queue)) as visit:
        page = visit.page
        expect(button(page, "Run")).to_be_enabled()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_contain_text("Run, re-run, or save and run")
        page.evaluate(
            """() => {
              document.querySelector("dialog").close();
              document.dispatchEvent(new KeyboardEvent("keydown", { key: "s", bubbles: true }));
            }"""
        )
        expect(panel(page, "Settings")).to_be_visible()
        page.wait_for_timeout(100)  # the dialog's own event has come by now
        expect(panel(page, "Settings")).to_be_visible()
        visit.assert_clean()


def test_the_page_is_gone_through_by_the_tab_key(browser: Browser, up: Up) -> None:
    """From the start to the end and out again: nothing holds the focus, and what has it can be seen."""
    with browser.visit(link(up.url, job=shell("true"), queue=up.queue)) as visit:
        page = visit.page
        expect(button(page, "Run")).to_be_enabled()
        names = []
        for _ in range(40):
            page.keyboard.press("Tab")
            now = page.evaluate(
                """() => {
                  const one = document.activeElement;
                  if (one === document.body) return null;
                  const { width, height } = one.getBoundingClientRect();
                  const ring = getComputedStyle(one).outlineStyle !== "none";
                  return [one.getAttribute("aria-label") ?? one.innerText.trim(), ring && width > 2 && height > 2];
                }"""
            )
            if now is None:
                break
            names.append(now)
        assert now is None, "the focus leaves the page after the last element"
        assert [name for name, is_seen in names if not is_seen] == []
        order = [name.split("\n")[0] for name, _ in names]
        assert order[:5] == ["Run", "Inputs", "Outputs", "Settings", "More"]
        assert order[-1] == "Help and keys"
        assert "Log of the job" in order
        visit.assert_clean()


def test_an_entry_of_the_history_opens_its_job_again(browser: Browser, up: Up) -> None:
    first, second = f"first-{uuid.uuid4().hex}", f"second-{uuid.uuid4().hex}"
    with browser.visit() as visit:
        page = visit.page
        for said in (first, second):
            page.goto(link(up.url, job=shell(f"echo {said}"), queue=up.queue))
            button(page, "Run").click()
            expect(log(page)).to_contain_text(said)
            expect(status(page)).to_contain_text("Complete")
        page.reload()  # it is kept
        open_panel(page, "History")
        rows = page.get_by_role("list", name="Jobs of this browser").get_by_role("listitem")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text(second)
        rows.last.get_by_role("link").click()
        expect(log(page)).to_contain_text(first)
        assert first in decoded(parameter(page, "job"))["command"][2]
        button(rows.last, "Forget job").click()
        expect(rows).to_have_count(1)
        page.reload()
        open_panel(page, "History")
        expect(rows).to_have_count(1)
        visit.assert_clean()


# --- the page of a queue ---------------------------------------------------------------------------------------------


def test_the_page_of_a_queue_shows_a_running_job_and_cancels_it(browser: Browser, up: Up) -> None:
    said = uuid.uuid4().hex
    job_id = submitted(up.url, up.queue, shell(f"echo {said}; sleep 300"))
    with browser.visit(f"{up.url}/q/{up.queue}") as visit:
        page = visit.page
        row = page.get_by_role("list", name="Jobs").get_by_role("listitem").filter(has_text=said)
        expect(row).to_contain_text("Running")
        expect(row).to_contain_text("alpine:3.19.1")
        worker = page.get_by_role("list", name="Workers").get_by_role("listitem")
        expect(worker).to_contain_text("runs 1 job")
        expect(page.get_by_role("figure", name="Jobs that ended, per minute")).to_be_visible()
        button(row, "Cancel job").click()
        button(row, "Keep it").click()
        expect(button(row, "Cancel job")).to_be_focused()
        assert call("GET", f"{up.url}/q/{up.queue}/j/{job_id}")[1]["data"]["job"]["state"] == "Running"
        button(row, "Cancel job").click()
        button(row, "Cancel the job").click()
        expect(row).to_contain_text("Cancelled")
        expect(worker).to_contain_text("idle")
        page.get_by_role("searchbox", name="Search jobs").fill("no such job at all")
        expect(row).to_have_count(0)
        page.get_by_role("searchbox", name="Search jobs").fill(said[:10])
        expect(row).to_have_count(1)
        row.get_by_role("link").click()
        expect(status(page)).to_contain_text("Cancelled")
        assert f"/j/{job_id}" in page.url
        visit.assert_clean()
