"""Files on the page: edited, uploaded, dropped and pasted, read by a real container; and what it leaves, looked at."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import struct
import uuid
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from browser import Browser, Visit
from links import decoded, link
from page_steps import UPLOADED, button, log, open_panel, panel, parameter, ran, shell, status
from up import Up

pytestmark = [pytest.mark.slow, pytest.mark.docker]

BYTES = bytes(range(256)) * 1500
"""No text in any encoding that matters: 384 kB, with NUL, newline and all the rest."""


def png(width: int, height: int) -> bytes:
    """A picture, one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x20\x80\xa0" * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# --- inputs ----------------------------------------------------------------------------------------------------------


def type_over(page: Page, text: str) -> None:
    """Put a text in the place of what the editor shows."""
    page.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)


def test_an_edit_is_in_the_link_at_once_and_runs(browser: Browser, up: Up) -> None:
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    job = {"image": "alpine:3.19.1", "command": "sh /inputs/script.sh"}
    with browser.visit(link(up.url, job=job, inputs={"script.sh": "echo before"}, queue=up.queue)) as visit:
        page = visit.page
        expect(page.locator(".cm-content")).to_contain_text("echo before")
        type_over(page, f"echo {first}")
        page.reload()  # at once: what was typed has had no time to be saved by itself
        expect(page.locator(".cm-content")).to_contain_text(f"echo {first}")
        assert decoded(parameter(page, "inputs")) == {"script.sh": f"echo {first}"}
        type_over(page, f"echo {second}\n")
        page.keyboard.press("Control+Enter")
        expect(log(page)).to_contain_text(second)
        expect(status(page)).to_contain_text("Complete")
        assert decoded(parameter(page, "inputs")) == {"script.sh": f"echo {second}\n"}
        assert first not in log(page).inner_text()
        visit.assert_clean()


def test_a_field_of_the_settings_is_in_the_link_at_once(browser: Browser, up: Up) -> None:
    text = uuid.uuid4().hex
    with browser.visit(link(up.url, job=shell("true"), queue=up.queue)) as visit:
        open_panel(visit.page, "Settings")
        visit.page.get_by_label("Working directory").fill(f"/{text}")
        visit.page.reload()
        assert decoded(parameter(visit.page, "job"))["workdir"] == f"/{text}"
        visit.assert_clean()


DIGEST = "cd /inputs && sha256sum -- * && ls -l"


def _run_and_read(visit: Visit, expected: bytes) -> None:
    """Run the job of the page, which prints the digests of its inputs."""
    button(visit.page, "Run").click()
    expect(status(visit.page)).to_contain_text("Complete")
    expect(log(visit.page)).to_contain_text(hashlib.sha256(expected).hexdigest())


def test_a_binary_file_that_was_chosen_is_read_byte_for_byte(browser: Browser, up: Up, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(BYTES)
    with browser.visit(link(up.url, job=shell(DIGEST), queue=up.queue)) as visit:
        open_panel(visit.page, "Inputs")
        with visit.page.expect_file_chooser() as chooser:
            button(visit.page, "Add files").click()
        chooser.value.set_files(tmp_path / "data.bin")
        row = panel(visit.page, "Inputs").get_by_role("listitem").filter(has_text="data.bin")
        expect(row).to_contain_text("384 kB, uploaded")
        _run_and_read(visit, BYTES)
        visit.page.reload()  # the link holds where it is
        open_panel(visit.page, "Inputs")
        expect(row).to_contain_text("uploaded")
        expect(status(visit.page)).to_contain_text("Complete")
        visit.assert_clean(but=[UPLOADED])


def test_a_file_that_was_dropped_is_read_byte_for_byte(browser: Browser, up: Up, tmp_path: Path) -> None:
    dropped = tmp_path / "dropped.bin"
    dropped.write_bytes(BYTES[::-1])
    with browser.visit(link(up.url, job=shell(DIGEST), queue=up.queue)) as visit:
        expect(button(visit.page, "Run")).to_be_enabled()
        devtools = visit.context.new_cdp_session(visit.page)
        for kind in ("dragEnter", "dragOver", "drop"):
            data = {"items": [], "files": [str(dropped)], "dragOperationsMask": 1}
            devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 400, "data": data})
        row = panel(visit.page, "Inputs").get_by_role("listitem").filter(has_text="dropped.bin")
        expect(row).to_contain_text("384 kB, uploaded")
        _run_and_read(visit, BYTES[::-1])
        visit.assert_clean(but=[UPLOADED])


def test_what_is_pasted_becomes_a_file(browser: Browser, up: Up) -> None:
    text = f"pasted {uuid.uuid4().hex}\nzweite Zeile: ü\n"
    allowed = ["clipboard-read", "clipboard-write"]
    with browser.visit(link(up.url, job=shell("cat /inputs/notes.txt"), queue=up.queue), permissions=allowed) as visit:
        page = visit.page
        open_panel(page, "Inputs")
        expect(panel(page, "Inputs")).to_contain_text("No files yet")
        page.evaluate("(text) => navigator.clipboard.writeText(text)", text)
        name = page.get_by_label("New name of pasted.txt")
        for _ in range(3):  # a busy browser may not have the text on its clipboard yet
            page.keyboard.press("Control+v")
            with suppress(PlaywrightTimeout):
                name.wait_for(timeout=3_000)
                break
        expect(name).to_be_focused()
        name.fill("notes.txt")
        name.press("Enter")
        assert decoded(parameter(page, "inputs")) == {"notes.txt": text}
        button(page, "Run").click()
        for line in text.splitlines():
            expect(log(page)).to_contain_text(line)
        visit.assert_clean()


def test_a_picture_that_is_pasted_becomes_a_file(browser: Browser, up: Up) -> None:
    allowed = ["clipboard-read", "clipboard-write"]
    with browser.visit(link(up.url, job=shell(f"{DIGEST}; wc -c *"), queue=up.queue), permissions=allowed) as visit:
        page = visit.page
        expect(button(page, "Run")).to_be_enabled()
        page.evaluate(
            """async (text) => {
              const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
              const picture = new Blob([bytes], { type: "image/png" });
              await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
            }""",
            base64.b64encode(png(40, 30)).decode(),
        )
        page.keyboard.press("Control+v")
        row = panel(page, "Inputs").get_by_role("listitem").filter(has_text=".png")
        expect(row).to_contain_text("PNG image")
        button(row, "Look at").click()
        expect(page.get_by_role("dialog")).to_contain_text(re.compile("40 . 30 pixels"))
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        button(page, "Run").click()
        expect(log(page)).to_contain_text(".png")
        expect(status(page)).to_contain_text("Complete")
        visit.assert_clean(but=[UPLOADED])


# --- outputs ---------------------------------------------------------------------------------------------------------

LARGE = 3_000_000
FILES = {
    "notes.txt": "first line\nzweite Zeile: ü\n".encode(),
    "table.csv": b'name,cm\n"Lovelace, Ada",165\nGrace,168\n',
    "data/result.json": b'{"mean": 1.5, "names": ["Ada", "Grace"], "none": null}',
    "data/plot.png": png(64, 48),
    "empty": b"",
}


def _writing(files: dict[str, bytes]) -> str:
    """A script that puts these files into /outputs, and a large one."""
    lines = [f"head -c {LARGE} /dev/zero | tr '\\0' x > /outputs/large.log"]
    for name, data in files.items():
        folder = f"/outputs/{name}".rpartition("/")[0]
        lines.append(f"mkdir -p {folder}; echo {base64.b64encode(data).decode()} | base64 -d > /outputs/{name}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def finished(up: Up) -> str:
    """A link to a job that left files."""
    job = shell(_writing(FILES))
    _, result = ran(up, job)
    assert set(result["result"]["outputs"]) == {*FILES, "large.log"}, result
    return link(up.url, job=job, queue=up.queue)


def _open_outputs(visit: Visit, address: str) -> None:
    visit.page.goto(address)
    expect(status(visit.page)).to_contain_text("Complete")
    open_panel(visit.page, "Outputs")
    expect(visit.page.get_by_role("list", name="Files of /outputs")).to_be_visible()


def test_outputs_are_listed_with_their_sizes(browser: Browser, finished: str) -> None:
    with browser.visit() as visit:
        _open_outputs(visit, finished)
        outputs = panel(visit.page, "Outputs")
        total = LARGE + sum(map(len, FILES.values()))
        expect(outputs).to_contain_text(f"{len(FILES) + 1} files, {total / 1e6:.1f} MB")
        for name, size in {"large.log": "3.0 MB", "empty": "0 B", "notes.txt": f"{len(FILES['notes.txt'])} B"}.items():
            expect(outputs.get_by_role("listitem").filter(has_text=name)).to_contain_text(size)
        visit.assert_clean()


def test_outputs_are_looked_at_one_after_the_other(browser: Browser, finished: str) -> None:
    with browser.visit() as visit:
        _open_outputs(visit, finished)
        page, dialog = visit.page, visit.page.get_by_role("dialog")
        button(page, "Look at data/plot.png").click()
        expect(dialog).to_contain_text(re.compile("64 . 48 pixels"))
        shown = dialog.get_by_role("img", name="data/plot.png")
        assert shown.evaluate("(image) => [image.complete, image.naturalWidth]") == [True, 64]
        button(dialog, "Next").click()
        expect(dialog).to_contain_text("names")
        expect(dialog.get_by_role("tree")).to_contain_text("Grace")
        button(dialog, "As text").click()
        expect(dialog).to_contain_text('"mean": 1.5')
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)

        button(page, "Look at table.csv").click()
        expect(dialog.get_by_role("columnheader", name="cm")).to_be_visible()
        expect(dialog.get_by_role("cell", name="Lovelace, Ada", exact=True)).to_be_visible()
        button(dialog, "Previous").click()
        expect(dialog).to_contain_text("zweite Zeile: ü")
        button(dialog, "Close").click()

        button(page, "Look at large.log").click()
        expect(dialog).to_contain_text("The first 1.0 MB of 3.0 MB.")
        button(dialog, "Show more").click()
        expect(button(dialog, "Show more")).to_have_count(0)
        button(dialog, "Close").click()

        button(page, "Look at empty").click()
        expect(dialog).to_contain_text("The file is empty.")
        visit.assert_clean()


def test_one_file_is_saved(browser: Browser, finished: str) -> None:
    with browser.visit() as visit:
        _open_outputs(visit, finished)
        with visit.page.expect_download() as download:
            visit.page.get_by_role("link", name="Download data/plot.png").click()
        assert download.value.suggested_filename == "plot.png"
        assert Path(download.value.path()).read_bytes() == FILES["data/plot.png"]
        visit.assert_clean()


def _assert_whole(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {**FILES, "large.log": b"x" * LARGE}


def test_all_files_are_saved_as_one_archive(browser: Browser, finished: str) -> None:
    """As in browsers that have no dialog for saving to a place of one's choice."""
    with browser.visit() as visit:
        visit.context.add_init_script("delete window.showSaveFilePicker")
        _open_outputs(visit, finished)
        with visit.page.expect_download() as download:
            button(visit.page, "Download all").click()
        assert re.fullmatch(r"outputs-[0-9a-f]{8}\.zip", download.value.suggested_filename)
        _assert_whole(Path(download.value.path()).read_bytes())
        visit.assert_clean()


PICKED = """
window.showSaveFilePicker = async ({ suggestedName }) => {
  window.picked = await (await navigator.storage.getDirectory()).getFileHandle(suggestedName, { create: true });
  return window.picked;
};
"""
READ = """async () => {
  const bytes = new Uint8Array(await (await window.picked.getFile()).arrayBuffer());
  return bytes.toBase64 ? bytes.toBase64() : btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(""));
}"""


def test_all_files_are_streamed_to_the_file_that_was_picked(browser: Browser, finished: str) -> None:
    """No dialog opens without a screen; what a person would have picked is a file of the browser's own disk."""
    with browser.visit() as visit:
        visit.context.add_init_script(PICKED)
        _open_outputs(visit, finished)
        button(visit.page, "Download all").click()
        expect(button(visit.page, "Cancel")).to_have_count(0)
        expect(button(visit.page, "Download all")).to_be_visible()
        _assert_whole(base64.b64decode(visit.page.evaluate(READ)))
        visit.assert_clean()
