"""A local server that speaks the Hugging Face hub's protocol, for HF_ENDPOINT: folders served as its repositories.

``FOLDER/models/ORG/NAME`` and ``FOLDER/datasets/ORG/NAME`` are repositories of one revision, ``main``, whose commit
follows from their files. It answers what ``huggingface_hub``, ``datasets`` and ``transformers`` ask in order to
download: a repository's information, its tree, what there is to know of some paths, and files, whole or in part. As at
the hub, a large file is answered with a redirect to its content; and gated or missing repositories, revisions and files
are refused with the hub's own status and error code. Faults are those of :class:`FaultyServer`.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from support.faulty_server import AnyFault, FaultyHandler, FaultyServer

LARGE = 100_000
"""Bytes from which on a file is kept outside of git, as weights are; its content then has a place of its own."""
TOKEN = "hf_a_token_of_this_test"
"""Who shows it has accepted the licences of the gated repositories."""
_API = re.compile(r"^/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?$")
_FILE = re.compile(r"^/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
_CONTENT = re.compile(r"^/content/(models|datasets)/([^/]+/[^/]+)/(.+)$")


@dataclass
class HubFault(AnyFault):
    """What to do instead of a good answer; ``only_if`` is asked with the path of the request."""

    error: str | None = None
    """X-Error-Code, as ``RepoNotFound``."""


class HubServer(FaultyServer[HubFault]):
    """Serves the repositories of ``folder``, the ``gated`` ones (``ORG/NAME``) to who shows :data:`TOKEN`."""

    def __init__(self, folder: Path, gated: tuple[str, ...] = ()) -> None:
        super().__init__(HubHandler)
        self.folder = folder
        self.gated = gated
        self.asked: list[str] = []
        """``METHOD path`` of each request so far, with its part of the file where one was asked for."""

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: ``oid`` is git's, ``sha256`` that of a large one's content."""

    path: str
    size: int
    oid: str
    sha256: str | None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    @property
    def entry(self) -> dict[str, Any]:
        """As the hub lists it in a tree."""
        large = {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": 134}} if self.sha256 else {}
        return {"type": "file", "path": self.path, "size": self.size, "oid": self.oid, **large}

    @property
    def sibling(self) -> dict[str, Any]:
        """As the hub lists it in a repository's information, with ``?blobs=true``."""
        large = {"lfs": {"sha256": self.sha256, "size": self.size, "pointerSize": 134}} if self.sha256 else {}
        return {"rfilename": self.path, "size": self.size, "blobId": self.oid, **large}


@cache
def read_file(path: Path, name: str, _changed: int) -> HubFile:
    """The file ``path``, which was changed at that time, under its ``name`` in the repository."""
    content = path.read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return HubFile(name, len(content), oid, hashlib.sha256(content).hexdigest() if len(content) >= LARGE else None)


class HubHandler(FaultyHandler):
    """Answers one request after another of a connection."""

    server: HubServer

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        """Misbehave if that is due, else answer."""
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        place = urlsplit(self.path)
        path = unquote(place.path)
        part = self.headers.get("Range")
        with self.server.lock:
            self.server.asked.append(f"{self.command} {path}{f' {part}' if part else ''}")
            self.fault = self.server.next_fault(path)
        if self.fault and (self.fault.status >= 400 or self.fault.body is not None):
            self.refuse(self.fault.status, self.fault.error or "", self.fault.body, headers=self.fault.headers)
        elif found := _API.match(path):
            kind, repository, what, revision, rest = found.groups()
            asked = {name: values[0] for name, values in parse_qs(place.query).items()}
            paths = parse_qs(body).get("paths", []) if what == "paths-info" else None
            self.answer_api(f"{kind}/{repository}", what, revision or "main", rest or "", paths, asked)
        elif found := _FILE.match(path):
            self.answer_file(f"{'datasets' if found[1] else 'models'}/{found[2]}", found[3], found[4])
        elif found := _CONTENT.match(path):
            self.answer_content(f"{found[1]}/{found[2]}", found[3])
        else:
            self.refuse(404, "", b'{"error": "there is no such place"}')

    def answer_api(
        self, name: str, what: str | None, revision: str, rest: str, paths: list[str] | None, asked: dict[str, str]
    ) -> None:
        """A repository's information, its tree or a part of it, or what there is to know of some ``paths`` of it."""
        files = self.files_of(name, revision)
        if files is None:
            return
        if what in (None, "revision"):
            return self.say(self.information(name, files, "blobs" in asked))
        if what == "tree":
            entries = listed(files, rest, asked.get("recursive", "").lower() in {"true", "1"})
            if rest and not entries:
                return self.refuse(404, "EntryNotFound")
            return self.say(entries)
        every = {entry["path"]: entry for entry in listed(files, "", recursive=True)}
        self.say([every[path] for path in paths or [] if path in every])

    def answer_file(self, name: str, revision: str, path: str) -> None:
        """A small file, or where the content of a large one is."""
        if name.partition("/")[2] in self.server.gated and not self.knows_token:
            status = 403 if self.headers.get("Authorization") else 401
            return self.refuse(status, "GatedRepo", message="Access to this repository is restricted.")
        files = self.files_of(name, revision)
        if files is None:
            return
        found = next((file for file in files if file.path == path), None)
        commit = {"X-Repo-Commit": commit_of(files)}
        if found is None:
            return self.refuse(404, "EntryNotFound", headers=commit)
        if found.sha256 is None:
            return self.send_part(self.server.folder / name / path, found.etag, commit)
        # Another host's name: a client follows redirects within the hub before it looks at the headers.
        place = f"http://localhost:{self.server.server_address[1]}/content/{name}/{path}"
        linked = {"X-Linked-Size": str(found.size), "X-Linked-Etag": f'"{found.etag}"', "Location": place}
        self.send(302, b"", {**commit, **linked})

    def answer_content(self, name: str, path: str) -> None:
        """The content of a large file."""
        files = self.files_of(name, "main")
        found = next((file for file in files or [] if file.path == path), None)
        if found is None:
            return self.refuse(404, "EntryNotFound")
        self.send_part(self.server.folder / name / path, found.etag, {})

    def send_part(self, file: Path, etag: str, headers: dict[str, str]) -> None:
        """``file``, or the range of it that is asked for."""
        content = file.read_bytes()
        headers = {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.send(200, content, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first > last:
            return self.send(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self.send(206, content[first : last + 1], headers)

    def files_of(self, name: str, revision: str) -> list[HubFile] | None:
        """The files of a repository; None where the refusal has been sent, since it or its revision does not exist."""
        folder = self.server.folder / name
        if not folder.is_dir():
            self.refuse(
                404 if self.headers.get("Authorization") else 401, "RepoNotFound", message="Repository not found"
            )
            return None
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = [read_file(path, path.relative_to(folder).as_posix(), path.stat().st_mtime_ns) for path in paths]
        if revision not in ("main", commit_of(files)):
            self.refuse(404, "RevisionNotFound", message=f"Invalid rev id: {revision}")
            return None
        return files

    def information(self, name: str, files: list[HubFile], sizes: bool) -> dict[str, Any]:
        """What the hub says of a repository."""
        kind, _, repository = name.partition("/")
        card = card_of(self.server.folder / name)
        return {
            "_id": hashlib.sha1(name.encode()).hexdigest()[:24],
            "id": repository,
            **({"modelId": repository} if kind == "models" else {}),
            "author": repository.partition("/")[0],
            "sha": commit_of(files),
            "lastModified": "2026-11-01T00:00:00.000Z",
            "createdAt": "2026-11-01T00:00:00.000Z",
            "private": False,
            "gated": "manual" if repository in self.server.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [f"license:{card['license']}"] if "license" in card else [],
            "cardData": card,
            "siblings": [file.sibling if sizes else {"rfilename": file.path} for file in files],
            "usedStorage": sum(file.size for file in files),
        }

    @property
    def knows_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def say(self, content: Any) -> None:
        """Answer with JSON."""
        self.send(200, json.dumps(content).encode(), {})

    def refuse(
        self,
        status: int,
        error: str,
        body: bytes | None = None,
        message: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answer with an error as the hub does: its code in a header."""
        coded = {"X-Error-Code": error} if error else {}
        said = {"X-Error-Message": message} if message else {}
        content = json.dumps({"error": message or error}).encode() if body is None else body
        self.send(status, content, {**coded, **said, **(headers or {})})

    def send(self, status: int, content: bytes, headers: dict[str, str], cut_off: bool = False) -> None:
        """As the base class does; HEAD gets the headers alone."""
        cut_off = cut_off or bool(self.fault and self.fault.cut_off)
        if self.command == "HEAD":
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            return self.end_headers()
        super().send(status, content, headers, cut_off)


def commit_of(files: list[HubFile]) -> str:
    """The commit that holds ``files``: another as soon as one of them changes."""
    return hashlib.sha1("\n".join(f"{file.oid} {file.path}" for file in files).encode()).hexdigest()


def listed(files: list[HubFile], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The entries of a ``folder`` ('' for the whole), as the hub lists them: folders too."""
    start = f"{folder}/" if folder else ""
    inside = [file for file in files if file.path.startswith(start)]
    folders = sorted({str(parent) for file in inside for parent in Path(file.path).parents} - {"."})
    kept = [name for name in folders if name.startswith(start)]
    entries = [{"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest()} for name in kept]
    entries += [file.entry for file in inside]
    return entries if recursive else [entry for entry in entries if "/" not in str(entry["path"])[len(start) :]]


def card_of(repository: Path) -> dict[str, Any]:
    """What the head of a repository's README.md says."""
    readme = repository / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return dict(yaml.safe_load(found[1])) if found else {}
