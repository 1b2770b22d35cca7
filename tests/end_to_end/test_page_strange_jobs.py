"""Jobs of strangers on the page: what they print, the files that they leave and the texts that they are made of.

Every payload sets ``window.__ran`` and calls ``alert``. Each is looked at wherever the page shows it, and must be there
as the text that it is, with nothing run, nothing fetched, no markup made of it, and no report of the page's policy:
what the policy would stop must not even be tried.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import urllib.parse
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from browser import Browser, Visit
from links import encoded, link
from page_steps import button, log, open_panel, panel, ran, shell, status
from processes import call
from up import Up

pytestmark = [pytest.mark.slow, pytest.mark.docker]

RUN = "window.__ran=1;alert('ran')"
SCRIPT = f"<script>{RUN}</script>"
IMAGE = f'<img src=x onerror="{RUN}">'
BREAKOUT = f"\"'></textarea></title></style></pre>{IMAGE}"
RTL = "\u202e"

LINES: dict[str, tuple[bytes, str]] = {
    "a script": (SCRIPT.encode(), SCRIPT),
    "an image": (IMAGE.encode(), IMAGE),
    "the ends of all elements": (BREAKOUT.encode(), BREAKOUT),
    "an address that is a script": (f"javascript:{RUN} here".encode(), f"javascript:{RUN} here"),
    "a link with a handler": (f'https://example.org/" onmouseover="{RUN}'.encode(), f'" onmouseover="{RUN}'),
    "a terminal's link to a script": (f"\x1b]8;;javascript:{RUN}\x1b\\press me\x1b]8;;\x1b\\".encode(), "press me"),
    "a terminal's link to a page": (f"\x1b]8;;data:text/html,{SCRIPT}\x07a page\x1b]8;;\x07".encode(), "a page"),
    "rubbish for a terminal": (
        b"\x1b[99999999999999m\x1b[38;2;1e9;;;m\x1b]0;owned\x07\x1b[2J\x1b[H\x1bP$q\x1b\\a\x1b[31mb\x1b[999999999Cc\x1b[",
        "ab",
    ),
    "characters that are none": (b"nul\x00bell\x07back\x08\x0b\x0c\x7f\xc2\x9b31mdone", "31mdone"),
    "text that runs backwards": (f"name {RTL}gpj.exe after".encode(), "gpj.exe after"),
    "bytes that are no text": (b"\xff\xfe\xc3(\xed\xa0\x80 not text", "not text"),
    "a template": (f"{{{{constructor.constructor('{RUN}')()}}}} ${{{RUN}}}".encode(), f"${{{RUN}}}"),
    "a line of a megabyte": (b"<b>" * 350_000, "<b><b><b>"),
}

IMAGE_XML = f'<img src="x" onerror="{RUN}"/>'
SVG = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40" onload="{RUN}"><script>{RUN}</script>'
    f'<image href="https://elsewhere.example/x.png"/><foreignObject><body xmlns="http://www.w3.org/1999/xhtml">{IMAGE_XML}'
    "</body></foreignObject></svg>"
)
FORMULAS = f'name,value\n"=HYPERLINK(""https://elsewhere.example/"")","=cmd|\' /C calc\'!A0"\n{SCRIPT},@SUM(1)\n'
PROTO = '{"__proto__": {"polluted": 1}, "constructor": {"prototype": {"polluted": 1}}, "<b>": "<i>", "toString": 1}'
FILES: dict[str, tuple[str, str]] = {
    "page.html": (f"<!doctype html><title>x</title>{SCRIPT}{IMAGE}", SCRIPT),
    "picture.svg": (SVG, ""),
    "code.js": (RUN, RUN),
    "formulas.csv": (FORMULAS, "=cmd|' /C calc'!A0"),
    "proto.json": (PROTO, "__proto__"),
    "notes.md": (f"[press]({'java' + 'script'}:{RUN}) {IMAGE}", IMAGE),
    "no-picture.png": (SCRIPT, ""),
    f"<img src=x onerror={RUN}>.txt": ("an element", "an element"),
    "\"quotes' & entities &lt;b&gt;.txt": ("quoted", "quoted"),
    "..\\..\\up.txt": ("backslashes", "backslashes"),
    "..%2f..%2fup.txt": ("escapes", "escapes"),
    "%00 ?query=1#hash.txt": ("an address", "an address"),
    f"fact{RTL}fdp.txt": ("backwards", "backwards"),
    "two\nlines.txt": ("two lines", "two lines"),
    "javascript:alert(1)/ы 文 🙂/ .txt": ("far away", "far away"),
    "__proto__": ("a name of every object", "a name of every object"),
}

HOOK = """
() => ({
  ran: window.__ran ?? null,
  polluted: {}.polluted ?? null,
  markup: [...document.querySelectorAll(
    "main script, [onerror], [onload], [onmouseover], a[href^='javascript:' i], a[href^='data:' i], img[src='x'],"
    + " iframe, object, embed, [src*='elsewhere.example']",
  )].map((one) => one.outerHTML.slice(0, 200)),
})
"""


@contextmanager
def stranger(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A visit in which nothing of a stranger may run: judged at its end, in every page of it."""
    with browser.visit(url, **options) as visit:
        away: list[str] = []
        visit.context.on("request", lambda request: away.append(request.url) if "elsewhere" in request.url else None)
        yield visit
        for page in visit.context.pages:
            assert_nothing_ran(page)
        assert away == []
        visit.assert_clean()


def assert_nothing_ran(page: Page) -> None:
    assert page.evaluate(HOOK) == {"ran": None, "polluted": None, "markup": []}


def _writing(data: bytes) -> str:
    return f"echo {base64.b64encode(data).decode()} | base64 -d"


def _fulfill(answer: dict[str, Any], route: Route) -> None:
    route.fulfill(**answer)


def test_the_payloads_run_where_nobody_minds(browser: Browser) -> None:
    """Else the tests below would show nothing."""
    for payload in (SCRIPT, IMAGE, BREAKOUT, SVG):
        with browser.visit() as visit:
            answer = {"body": f"<!doctype html><title>x</title>{payload}", "content_type": "text/html"}
            visit.page.route("http://plain.example/", partial(_fulfill, answer))
            visit.page.goto("http://plain.example/", wait_until="load")
            visit.page.wait_for_function("() => window.__ran === 1")
            assert set(visit.dialogs) == {"ran"}


# --- what a job prints -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def printed(up: Up) -> str:
    """A link to a job that printed all the lines, on both streams."""
    text = b"".join(data + b"\n" for data, _ in LINES.values())
    key = hashlib.sha256(text).hexdigest()
    assert call("PUT", f"{up.url}/f/{key}", text)[0] == 200
    ref = {"type": "url", "value": f"{up.url}/f/{key}", "hash": key}
    job = shell("cat /inputs/lines; head -n 3 /inputs/lines >&2", inputs={"lines": ref})
    ran(up, job)
    return link(up.url, job=job, queue=up.queue)


def test_lines_are_shown_as_the_text_they_are(browser: Browser, printed: str) -> None:
    with stranger(browser, printed, permissions=["clipboard-read", "clipboard-write"]) as visit:
        page = visit.page
        expect(status(page)).to_contain_text("Complete")
        button(page, "Wrap long lines").click()
        log(page).press("Control+Home")
        for _, shown in LINES.values():
            expect(log(page)).to_contain_text(shown)
        assert page.title().startswith("Complete ")
        for words in ("press me", "a page"):
            assert page.get_by_role("link", name=words).count() == 0
            page.get_by_text(words, exact=True).click()
        button(page, "Show more of").click()  # of the long line
        assert_nothing_ran(page)
        button(page, "Split the two streams").click()
        expect(page.get_by_role("log", name="Standard error")).to_contain_text(SCRIPT)
        button(page, "Combine the two streams").click()
        button(page, "Times: off").click()
        button(page, "Search the log").click()
        page.get_by_role("searchbox", name="Search the log").fill(SCRIPT)
        expect(page.locator("mark.current")).to_have_text(SCRIPT)
        page.get_by_role("searchbox", name="Search the log").fill("(?:[<script")
        expect(page.get_by_text("not found")).to_be_visible()
        page.keyboard.press("Escape")
        button(page, "Copy the log").click()
        copied = page.evaluate("() => navigator.clipboard.readText()")
        assert SCRIPT in copied
        assert "\x1b" not in copied
        with page.expect_download() as download:
            button(page, "Download the whole log").click()
        assert SCRIPT.encode() in Path(download.value.path()).read_bytes()


# --- what a job leaves -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left(up: Up) -> str:
    """A link to a job that left all the files, and one whose name is no text."""
    lines = ["cd /outputs"]
    for name, (text, _) in FILES.items():
        quoted = "'" + name.replace("'", "'\\''") + "'"
        folder = "'" + name.rpartition("/")[0].replace("'", "'\\''") + "'"
        lines.append(f"mkdir -p -- ./{folder}; {_writing(text.encode())} > ./{quoted}")
    lines.append("touch \"$(printf 'no\\377text')\"; ln -s /etc/passwd link.txt")
    job = shell("\n".join(lines))
    _, finished = ran(up, job)
    assert set(finished["result"]["outputs"]) == set(FILES), finished["result"]
    return link(up.url, job=job, queue=up.queue)


def _shown(name: str) -> str:
    """Characters that are not seen are written out."""
    return name.replace(RTL, "\\u202e").replace("\n", "\\u000a")


def test_files_are_shown_as_the_text_they_are(browser: Browser, left: str) -> None:
    with stranger(browser, left) as visit:
        page = visit.page
        expect(status(page)).to_contain_text("Complete")
        open_panel(page, "Outputs")
        outputs = panel(page, "Outputs")
        expect(outputs).to_contain_text(f"{len(FILES)} files")
        expect(outputs).to_contain_text("2 files were not kept")
        expect(outputs).to_contain_text("a symbolic link")
        dialog = page.get_by_role("dialog")
        rows = outputs.locator(".outputs-row .outputs-name")
        seen = []
        rows.first.click()
        for at in range(len(FILES)):
            shown = dialog.get_by_role("heading").text_content() or ""
            name = next(each for each in FILES if _shown(each) == shown)
            seen.append(name)
            if name == "picture.svg":
                picture = dialog.get_by_role("img", name=name)
                expect(picture).to_have_attribute("src", re.compile(r"^data:image/svg\+xml"))
                expect(dialog).to_contain_text("40")
            elif name == "no-picture.png":
                expect(dialog.get_by_role("alert")).to_contain_text("not an image")
            else:
                expect(dialog).to_contain_text(FILES[name][1])
                if button(dialog, "As text").count():
                    button(dialog, "As text").click()
                    expect(dialog).to_contain_text(FILES[name][0].splitlines()[0])
            assert_nothing_ran(page)
            if at < len(FILES) - 1:
                button(dialog, "Next").click()
                expect(dialog.get_by_role("heading")).not_to_have_text(shown)
        assert sorted(seen) == sorted(FILES)


def test_files_are_saved_under_names_that_lead_nowhere(browser: Browser, left: str) -> None:
    with stranger(browser, left) as visit:
        visit.context.add_init_script("delete window.showSaveFilePicker")
        visit.page.reload()
        open_panel(visit.page, "Outputs")
        with visit.page.expect_download() as download:
            button(visit.page, "Download all").click()
        with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
            assert archive.testzip() is None
            names = archive.namelist()
            assert len({name.lower() for name in names}) == len(FILES)
            for name in names:
                assert ".." not in name.split("/"), name
                assert not name.startswith("/"), name
                assert not set(name) & set('\\:*?"<>|\n\0'), name
            kept = sorted(archive.read(name).decode() for name in names)
        assert kept == sorted(text for text, _ in FILES.values())


def test_a_file_that_is_opened_runs_nothing(browser: Browser, left: str) -> None:
    """Its link as it stands in the list, in a tab of its own."""
    with stranger(browser, left) as visit:
        page = visit.page
        open_panel(page, "Outputs")
        for name in ("page.html", "picture.svg", "code.js"):
            address = page.get_by_role("link", name=f"Download {name}").get_attribute("href")
            assert address
            with page.expect_download() as download:
                page.get_by_role("link", name=f"Download {name}").click()
            assert Path(download.value.path()).read_text() == FILES[name][0]
            answer = visit.context.request.get(address)
            assert "sandbox" in answer.headers["content-security-policy"]


def test_formulas_stay_what_they_were(browser: Browser, left: str) -> None:
    """A table is shown, not made into another: what is copied and saved is the file."""
    with stranger(browser, left, permissions=["clipboard-read", "clipboard-write"]) as visit:
        open_panel(visit.page, "Outputs")
        button(visit.page, "Look at formulas.csv").click()
        dialog = visit.page.get_by_role("dialog")
        expect(dialog.get_by_role("cell", name="@SUM(1)")).to_be_visible()
        assert dialog.locator("table a").count() == 0
        button(dialog, "Copy").click()
        copied = visit.page.evaluate("() => navigator.clipboard.readText()")
        assert list(csv.reader(io.StringIO(copied))) == list(csv.reader(io.StringIO(FORMULAS)))


# --- what a job is made of -------------------------------------------------------------------------------------------

WORDS: dict[str, Any] = {
    "command": ["echo", SCRIPT, BREAKOUT, f"{RTL}backwards"],
    "env": {"A": IMAGE, "<b>bold</b>": BREAKOUT, "__proto__": "x", "TOKEN": f"javascript:{RUN}"},
    "workdir": f"/tmp/{IMAGE}",
}


def test_the_texts_of_a_job_are_text_everywhere(browser: Browser, up: Up) -> None:
    job = {"image": "alpine:3.19.1", **WORDS, "env": {**WORDS["env"], "RUN": uuid.uuid4().hex}}
    address = link(up.url, job=job, queue=up.queue, other=SCRIPT, **{"<i>": IMAGE})
    with stranger(browser, address) as visit:
        page = visit.page
        button(page, "Run").click()
        expect(status(page)).to_contain_text("Complete")
        expect(log(page)).to_contain_text(SCRIPT)
        expect(log(page)).to_contain_text(BREAKOUT)
        expect(page.get_by_role("contentinfo")).to_contain_text(SCRIPT)
        assert_nothing_ran(page)

        open_panel(page, "Settings")
        settings = panel(page, "Settings")
        assert json.loads(settings.get_by_label("Command").input_value()) == WORDS["command"]
        values = [field.input_value() for field in settings.get_by_label("Value of").all()]
        assert {IMAGE, BREAKOUT} <= set(values)
        expect(settings).to_contain_text("%3Ci%3E")  # names of parameters stand there as they are
        expect(settings).to_contain_text("TOKEN looks like a secret")
        for tab in ("Image", "Definition"):
            page.get_by_role("tab", name=tab, exact=True).click()
            assert_nothing_ran(page)
        assert (
            json.loads(settings.get_by_role("textbox", name="Definition").input_value())["workdir"] == WORDS["workdir"]
        )

        open_panel(page, "Share")
        for tab in ("Link", "Embed", "curl", "Command line", "Python", "JavaScript"):
            page.get_by_role("tab", name=tab, exact=True).click()
            if tab not in ("Link", "Embed"):
                expect(panel(page, "Share")).to_contain_text("onerror=")
            assert_nothing_ran(page)

        open_panel(page, "History")
        expect(panel(page, "History")).to_contain_text(SCRIPT)
        assert_nothing_ran(page)
        open_panel(page, "Queue")
        row = panel(page, "Queue").get_by_role("listitem").filter(has_text=SCRIPT)
        expect(row.first).to_be_visible()
        assert_nothing_ran(page)

        page.goto(f"{up.url}/q/{up.queue}")
        row = page.get_by_role("list", name="Jobs").get_by_role("listitem").filter(has_text=SCRIPT)
        expect(row.first).to_be_visible()
        assert_nothing_ran(page)
        row.first.get_by_role("link").click()
        expect(status(page)).to_contain_text("Complete")
        expect(log(page)).to_contain_text(SCRIPT)


@pytest.mark.parametrize(
    "parameters",
    [
        {"job": encoded({"image": IMAGE, "command": SCRIPT})},
        {"job": encoded({"image": {"toString": SCRIPT}, "command": [[SCRIPT]], "env": [IMAGE]})},
        {"job": encoded({"build": {"context": f"javascript:{RUN}", "dockerfile": SCRIPT, "buildArgs": [IMAGE]}})},
        {"job": encoded({"image": "alpine:3.19.1", SCRIPT: IMAGE, "__proto__": {"polluted": 1}})},
        {"inputs": encoded({IMAGE: SCRIPT, "../../up": IMAGE, "__proto__": "x", f"{RTL}txt.sh": BREAKOUT})},
        {"definition": encoded({"inputs": {IMAGE: {"type": SCRIPT}, "__proto__": {"polluted": 1}}})},
        {"control": encoded({"namespace": IMAGE, "callbacks": {"queued": {"url": f"javascript:{RUN}"}}})},
        {"queue": urllib.parse.quote(SCRIPT)},
        {"queue": urllib.parse.quote(f"javascript:{RUN}//q/x")},
        {"queue": urllib.parse.quote(f"https://elsewhere.example/q/{IMAGE}"), "job": ""},
        {"queueOverride": urllib.parse.quote(f"data:text/html,{SCRIPT}")},
        {"maxJobDuration": urllib.parse.quote(IMAGE)},
    ],
    ids=lambda parameters: "-".join(parameters),
)
def test_a_strangers_link_is_text_in_every_panel(browser: Browser, up: Up, parameters: dict[str, str]) -> None:
    usual = {"job": encoded(shell("true")), "inputs": encoded({"a.sh": "true"}), "queue": up.queue}
    given = "&".join(f"{name}={value}" for name, value in {**usual, **parameters}.items())
    with browser.visit(f"{up.url}/#?{given}") as visit:
        page = visit.page
        expect(page.get_by_role("banner")).to_be_visible()
        for opener in ("Inputs", "Settings", "Share", "History", "Queue"):
            open_panel(page, opener)
            for tab in page.locator(".content-side").get_by_role("tab").all():
                tab.click()
                assert_nothing_ran(page)
            assert_nothing_ran(page)
        page.get_by_role("contentinfo").get_by_role("button").first.click()
        assert_nothing_ran(page)
        assert (visit.reports, visit.errors, visit.dialogs) == ([], [], [])
