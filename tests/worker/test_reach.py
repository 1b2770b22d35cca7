"""Hosts are checked before anything is sent to them, in a network whose public and private addresses are real."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import asman_worker.reach as reach_module
from asman.errors import AsmanError, BadDefinition, Unavailable
from asman_worker.reach import Credential, Reach, Remote, SourceFailed
from asman_worker.recipe import GitContext
from git_server import GitServer, commit, git, make_certificate
from own_network import in_own_network

PUBLIC, OTHER, LAN = "1.1.1.1", "8.8.8.8", "10.0.0.1"
TOKEN = Credential.read("me:hunter2")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach_module, "_PAUSES_S", (0.01, 0.01))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"), PUBLIC, OTHER, LAN)


@pytest.fixture
def forge(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[GitServer]:
    with GitServer(tmp_path, certificate) as server:
        server.publish(a_tree(tmp_path), "r")
        yield server


def a_tree(folder: Path) -> Path:
    tree = folder / "tree"
    tree.mkdir()
    git(tree, "init", "--quiet")
    commit(tree)
    return tree


def reach_of(forge: GitServer, *, private: bool = True) -> Reach:
    return Reach(private_addresses=private, server_url="http://server.example:8000", ca_file=forge.ca_file)


async def test_a_repository_is_told_from_what_is_none(forge: GitServer) -> None:
    reach = reach_of(forge)
    forge.files["/page"] = b"<html>"
    found = await reach.repository(GitContext(url=f"{forge.url}/r"), Credential())
    assert found is not None
    assert "127.0.0.1" in found.addresses
    assert await reach.repository(GitContext(url=f"{forge.url}/page", may_be_archive=True), Credential()) is None
    with pytest.raises(SourceFailed, match="404"):
        await reach.repository(GitContext(url=f"{forge.url}/nothing"), Credential())
    forge.files["/page/info/refs"] = b"dumb"
    with pytest.raises(SourceFailed, match="speaks git"):
        await reach.repository(GitContext(url=f"{forge.url}/page"), Credential())


async def test_faults_of_a_moment_are_asked_again(forge: GitServer) -> None:
    forge.fail_next = 2
    assert await reach_of(forge).repository(GitContext(url=f"{forge.url}/r"), Credential()) is not None
    forge.fail_next = 3
    with pytest.raises(Unavailable, match="503"):
        await reach_of(forge).repository(GitContext(url=f"{forge.url}/r"), Credential())


async def test_a_private_repository_asks_for_its_credential(forge: GitServer) -> None:
    forge.passwords["r"] = "me:hunter2"
    context = GitContext(url=f"{forge.url}/r")
    with pytest.raises(SourceFailed, match="may be private"):
        await reach_of(forge).repository(context, Credential())
    with pytest.raises(SourceFailed, match="not accepted") as refused:
        await reach_of(forge).repository(context, Credential.read("me:hunter3"))
    assert "hunter" not in str(refused.value)
    assert await reach_of(forge).repository(context, TOKEN) is not None


async def test_a_moved_repository_is_followed_with_its_credential_on_the_same_host_only(forge: GitServer) -> None:
    forge.redirects |= {"old": f"{forge.url}/r", "loop": f"{forge.url}/loop", "away": "https://127.0.0.1:1/r"}
    found = await reach_of(forge).repository(GitContext(url=f"{forge.url}/old"), TOKEN)
    assert found is not None
    assert found.url == f"{forge.url}/r"
    with pytest.raises(SourceFailed, match="more than 5"):
        await reach_of(forge).repository(GitContext(url=f"{forge.url}/loop"), Credential())
    with pytest.raises(SourceFailed, match="the secret is not sent"):
        await reach_of(forge).repository(GitContext(url=f"{forge.url}/away"), TOKEN)


@pytest.mark.parametrize(
    "target", ["https://user:pw@127.0.0.1/r", "https://[::1/r", "ext::sh", "https://h:port/r", "https://h x/r"]
)
async def test_redirects_to_nonsense_are_not_followed(forge: GitServer, target: str) -> None:
    forge.redirects["x"] = target
    with pytest.raises(AsmanError):
        await reach_of(forge).repository(GitContext(url=f"{forge.url}/x"), Credential())
    assert len(forge.asked) == 1


async def test_only_https_is_spoken_unless_the_network_is_open(forge: GitServer) -> None:
    closed = reach_of(forge, private=False)
    with pytest.raises(BadDefinition, match="https"):
        closed.check_scheme("http://h.example/r")
    closed.check_scheme("http://server.example:8000/f/x")
    with pytest.raises(BadDefinition, match="https"):
        closed.check_scheme("http://server.example:8001/f/x")
    reach_of(forge).check_scheme("http://h.example/r")
    with pytest.raises(BadDefinition, match="https"):
        reach_of(forge).check_scheme("file:///etc")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "[::1]", "0.0.0.0"])
async def test_this_machine_is_not_reached_by_any_spelling(forge: GitServer, host: str) -> None:
    context = GitContext(url=f"https://{host}:{forge.port}/r", may_be_archive=True)
    with pytest.raises(AsmanError, match=r"not at a public address|no address"):
        await reach_of(forge, private=False).repository(context, Credential())
    assert forge.asked == []


async def test_an_untrusted_certificate_is_refused(forge: GitServer) -> None:
    reach = Reach(private_addresses=True, server_url="http://s")
    with pytest.raises(Unavailable, match="certificate"):
        await reach.repository(GitContext(url=f"{forge.url}/r"), Credential())
    assert forge.asked == []


async def test_a_host_without_an_address_is_said(forge: GitServer) -> None:
    with pytest.raises(Unavailable, match="no address"):
        await reach_of(forge).repository(GitContext(url="https://nowhere.invalid/r"), Credential())


def test_a_redirect_to_this_network_is_refused_before_it_is_asked(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    tree = a_tree(tmp_path)

    def body() -> None:
        with (
            GitServer(tmp_path / "a", certificate, PUBLIC) as forge,
            GitServer(tmp_path / "b", certificate, LAN) as lan,
            GitServer(tmp_path / "c", certificate, OTHER) as other,
        ):
            forge.publish(tree, "r")
            other.publish(tree, "r")
            lan.publish(tree, "r")
            forge.redirects |= {"lan": f"{lan.url}/r", "other": f"{other.url}/r"}
            asyncio.run(ask(forge, lan, other))

    async def ask(forge: GitServer, lan: GitServer, other: GitServer) -> None:
        reach = reach_of(forge, private=False)
        assert await reach.repository(GitContext(url=f"{forge.url}/r"), TOKEN) == Remote(
            url=f"{forge.url}/r", credential=TOKEN
        )
        for url in (f"{lan.url}/r", f"{forge.url}/lan"):
            with pytest.raises(BadDefinition, match="not at a public address"):
                await reach.repository(GitContext(url=url, may_be_archive=True), Credential())
        assert lan.asked == []
        forge.redirects["plain"] = f"http://{PUBLIC}:{forge.port}/r"
        with pytest.raises(BadDefinition, match="not an https address"):
            await reach.repository(GitContext(url=f"{forge.url}/plain"), Credential())
        with pytest.raises(SourceFailed, match="the secret is not sent"):
            await reach.repository(GitContext(url=f"{forge.url}/other"), TOKEN)
        assert other.asked == []
        found = await reach.repository(GitContext(url=f"{forge.url}/other"), Credential())
        assert found is not None
        assert found.url == f"{other.url}/r"

    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    in_own_network(body, PUBLIC, OTHER, LAN)
