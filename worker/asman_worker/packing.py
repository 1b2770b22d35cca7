"""A build context as the engine wants it: one plain tar file, with a Dockerfile in it.

Chooses the folder, puts the Dockerfile where the engine will find it, leaves out what ``.dockerignore`` names, and
writes every entry anew from the few fields that are known: owners, extended attributes and whatever else a header may
carry do not travel on. The same context always makes the same bytes.

Where the Dockerfile comes from, in this order: the definition's text, as ``filename`` (``Dockerfile`` if it has none);
the file ``filename`` seen from the top of the sources, where older workers look; the same seen from the chosen folder;
without ``filename``, ``Dockerfile`` or ``dockerfile`` in the chosen folder.

Source: contract, "Image build", "Build"; Docker Engine API v1.41, ``POST /build``.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from typing import IO

from asman.errors import BadDefinition, clip
from asman_worker.archives import Archive, Caps, Entry, read_errors
from asman_worker.dockerignore import MOST_BYTES, Ignored, read_ignored

__all__ = ["Layout", "OUTSIDE", "Packed", "pack"]

OUTSIDE = ".asman.dockerfile"
"""The name inside the context of a Dockerfile that lies outside the chosen folder."""

_DEFAULT = "Dockerfile"
_DOCKERFILE_BYTES = 1 << 20
_NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What to take. Shape: ``root`` and ``folder`` (seen from it) are relative and short; ``dockerfile`` is text."""

    root: str = ""
    folder: str = ""
    filename: str = ""
    dockerfile: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Shape: ``dockerfile`` is the name inside the tar; ``notes`` are lines for the log."""

    dockerfile: str
    files: int
    notes: tuple[str, ...]


def pack(archive: Archive | None, layout: Layout, target: IO[bytes], caps: Caps) -> Packed:
    """Write the context. For a thread: it ends soon after the stop flag of ``caps`` is set.

    Errors: BadDefinition, naming the member; LimitExceeded; Stopped.
    """
    archive = archive or Archive(entries={}, opens=_nothing)
    root = _below(archive.entries, layout.root, "the folder behind the ref in build.context")
    context = dict(_below(root, layout.folder, "build.buildContext"))
    texts: dict[str, bytes] = {}
    name = _place_dockerfile(archive, layout, root, context, texts)
    ignored = _ignored(archive, context, name)
    kept = {
        path: entry
        for path, entry in context.items()
        if path in (name, ".dockerignore") or (_running(caps) and path not in ignored)
    }
    _write(archive, kept, texts, target, caps)
    notes = list(archive.notes)
    if left_out := len(context) - len(kept):
        notes.append(f".dockerignore leaves out {left_out} of {len(context)} entries")
    return Packed(dockerfile=name, files=len(kept), notes=tuple(notes))


def _nothing(entry: Entry) -> IO[bytes]:
    return io.BytesIO()


def _running(caps: Caps) -> bool:
    caps.check_running()
    return True


def _below(entries: dict[str, Entry], folder: str, what: str) -> dict[str, Entry]:
    """The entries below a folder, named from there. Errors: BadDefinition if there is no such folder."""
    if not folder:
        return entries
    prefix = f"{folder}/"
    found = {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}
    at = entries.get(folder)
    if not found and (at is None or at.kind != "folder"):
        reason = "is not in the sources" if at is None else f"is a {at.kind} in the sources, not a folder"
        raise BadDefinition(f"{what}: {clip(folder)} {reason}", hint=_what_is_there(entries))
    return found


def _what_is_there(entries: dict[str, Entry]) -> str:
    tops = sorted({name.partition("/")[0] for name in entries})
    more = ", ..." if len(tops) > _NAMES_SHOWN else ""
    return f"At the top there are {', '.join(clip(top, 60) for top in tops[:_NAMES_SHOWN])}{more}." if tops else ""


def _place_dockerfile(
    archive: Archive, layout: Layout, root: dict[str, Entry], context: dict[str, Entry], texts: dict[str, bytes]
) -> str:
    """Have the Dockerfile in the context, and answer with its name there."""
    name = layout.filename or _DEFAULT
    if layout.dockerfile:
        above = name.split("/")[:-1]
        for count in range(1, len(above) + 1):
            if (at := context.get("/".join(above[:count]))) is not None and at.kind != "folder":
                raise BadDefinition(f"build.filename is {clip(name)}, but {clip('/'.join(above[:count]))} is no folder")
        for below in [path for path in context if path.startswith(f"{name}/")]:
            del context[below]
        texts[name] = layout.dockerfile.encode()
        context[name] = Entry(name=name, kind="file", size=len(texts[name]))
        return name
    inside = f"{layout.folder}/" if layout.folder else ""
    if layout.filename and _is_there(root.get(name)):
        if name.startswith(inside):
            return name.removeprefix(inside)
        texts[OUTSIDE] = _outside(archive, root[name])
        context[OUTSIDE] = Entry(name=OUTSIDE, kind="file", size=len(texts[OUTSIDE]))
        return OUTSIDE
    for candidate in (name,) if layout.filename else (name, name.lower()):
        if _is_there(context.get(candidate)):
            return candidate
    raise BadDefinition(
        f"the build context has no {clip(name)}",
        hint=f"Name it in build.filename, or give its text in build.dockerfile. {_what_is_there(context)}".strip(),
    )


def _is_there(entry: Entry | None) -> bool:
    return entry is not None and entry.kind != "folder"


def _outside(archive: Archive, entry: Entry) -> bytes:
    if entry.kind != "file":
        raise BadDefinition(
            f"build.filename: {clip(entry.name)} is a link, and lies outside build.buildContext",
            hint="Name the file that it points to.",
        )
    return archive.read(entry, _DOCKERFILE_BYTES)


def _ignored(archive: Archive, context: dict[str, Entry], dockerfile: str) -> Ignored:
    """What the author left out; a file of its own for this Dockerfile goes before the common one."""
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        entry = context.get(name)
        if entry is not None and entry.kind == "file":
            return read_ignored(archive.read(entry, MOST_BYTES).decode("utf-8", "replace"))
    return Ignored(())


# Writing --------------------------------------------------------------------------------------------------------


class _Running:
    """A file that is read as long as it may be, and whose damage is the job's fault."""

    def __init__(self, file: IO[bytes], caps: Caps) -> None:
        self._file, self._caps = file, caps

    def read(self, size: int) -> bytes:
        self._caps.check_running()
        with read_errors():
            return self._file.read(size)


def _write(archive: Archive, kept: dict[str, Entry], texts: dict[str, bytes], target: IO[bytes], caps: Caps) -> None:
    folders = {above for name in kept for above in _folders_above(name) if above not in kept}
    every = kept | {name: Entry(name=name, kind="folder", mode=0o755) for name in folders}
    caps.check(files=len(every), size=sum(entry.size for entry in every.values()))
    with tarfile.open(
        fileobj=target, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for name in sorted(every):
            caps.check_running()
            header = _header(name, every[name])
            if every[name].kind != "file":
                tar.addfile(header)
            elif name in texts:
                tar.addfile(header, io.BytesIO(texts[name]))
            else:
                _copy(archive, tar, header, every[name], caps)


def _copy(archive: Archive, tar: tarfile.TarFile, header: tarfile.TarInfo, entry: Entry, caps: Caps) -> None:
    with read_errors():
        file = archive.opens(entry)
    with file:
        counted = _Counted(_Running(file, caps))
        try:
            tar.addfile(header, counted)  # type: ignore[arg-type]
        except OSError as error:
            if counted.seen < entry.size and counted.is_at_end:
                raise BadDefinition(f"the archive of the build context ends early, in {clip(entry.name)}") from error
            raise


class _Counted:
    def __init__(self, file: _Running) -> None:
        self._file = file
        self.seen = 0
        self.is_at_end = False

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.seen += len(data)
        self.is_at_end = len(data) < size
        return data


def _folders_above(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _header(name: str, entry: Entry) -> tarfile.TarInfo:
    """A header with the fields that a build needs, owned by root as in an image."""
    header = tarfile.TarInfo(name)
    header.mtime = entry.mtime_s
    header.mode = entry.mode
    if entry.kind == "folder":
        header.type = tarfile.DIRTYPE
    elif entry.kind == "link":
        header.type, header.linkname, header.mode = tarfile.SYMTYPE, entry.target, 0o777
    else:
        header.size = entry.size
    return header
