"""A stand-in for the Hugging Face Hub on this machine: the few addresses that its client asks, and their answers."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import huggingface_hub.hf_api
import pytest

from tests.hub_writing import TOKEN, WRITER, Writing

__all__ = ["TOKEN", "WRITER", "Hub", "serving"]


@dataclass
class Hub:
    """Repositories by name: branch -> folder. Those in `gated` show their files to TOKEN alone, those in `private`
    nothing to anybody without a token. Notes every request; what is uploaded ends up in folders below `place`.
    """

    repositories: dict[str, dict[str, Path]]
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    private: set[str] = field(default_factory=set)
    place: Path = Path()
    commits: dict[tuple[str, str], int] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def commit(repository: str, branch: str, number: int = 0) -> str:
        """The commit that a branch points to after so many uploads."""
        name = f"{repository} {branch}" + (f" {number}" if number else "")
        return hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()

    def head(self, repository: str, branch: str) -> str:
        """The commit that a branch points to now."""
        return self.commit(repository, branch, self.commits.get((repository, branch), 0))

    def find(self, repository: str, revision: str) -> tuple[str, Path] | None:
        """Commit and folder of a branch or commit; None if there is none."""
        for branch, folder in self.repositories[repository].items():
            if revision in (branch, commit := self.head(repository, branch)):
                return commit, folder
        return None


@contextmanager
def serving(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it huggingface_hub asks `hub` instead of the network, and keeps what it gets in `cache`.

    What HF_ENDPOINT would do if it were set before the library is imported.
    """

    class Bound(Handler):
        served = hub

    server = Server(("127.0.0.1", 0), Bound)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks LFS, as the Hub also does
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", endpoint)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class Server(ThreadingHTTPServer):
    """A server that is used to clients which are killed."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that were cut."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(Writing, BaseHTTPRequestHandler):
    """Answers as the Hub does: metadata to everyone, also of gated repositories; files of those with a token only."""

    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """The headers that a GET would have."""
        self.answer()

    def do_GET(self) -> None:
        """Metadata, a list of files, or a file."""
        self.answer()

    @property
    def token(self) -> str | None:
        """What the client logs in with."""
        given = self.headers.get("Authorization")
        return given.removeprefix("Bearer ") if given else None

    def answer(self) -> None:
        """Find out what is asked for, and whether it may be had."""
        path = unquote(urlsplit(self.path).path).strip("/")
        self.served.asked.append(path)
        parts = path.removeprefix("api/models/").split("/")
        repository, rest = "/".join(parts[:2]), parts[2:]
        if self.hidden(repository):
            return None
        found = self.served.find(repository, rest[1] if rest else "main")
        if found is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        commit, folder = found
        if path.startswith("api/"):
            return self.send_json(describe(self.served, repository, commit, folder, tree=rest[:1] == ["tree"]))
        if repository in self.served.gated and self.token != TOKEN:
            return self.refuse(403, "GatedRepo", f"Access to model {repository} is restricted")
        file = folder.joinpath(*rest[2:])
        if not file.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        return self.send(200, file.read_bytes(), {"X-Repo-Commit": commit})

    def hidden(self, repository: str) -> bool:
        """Whether a repository is not there for this client, who is then told so."""
        if self.token not in (None, TOKEN, WRITER):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repository not in self.served.repositories or (repository in self.served.private and not self.token):
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
        else:
            return False
        return True

    def send_json(self, value: object) -> None:
        """Send a value."""
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str) -> None:
        """Send an error with the headers that huggingface_hub reads."""
        body = json.dumps({"error": message}).encode()
        self.send(status, body, ({"X-Error-Code": code} if code else {}) | {"X-Error-Message": message})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a response."""
        self.send_response(status)
        etag = hashlib.sha256(body).hexdigest()
        for key, value in {
            **headers,
            **self.served.headers,
            "Content-Length": str(len(body)),
            "ETag": f'"{etag}"',
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def describe(hub: Hub, repository: str, commit: str, folder: Path, tree: bool) -> object:
    """The JSON of a repository, or the list of its files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = {file: file.relative_to(folder).as_posix() for file in files}
    if tree:
        return [
            {"type": "file", "path": name, "size": file.stat().st_size, "oid": name} for file, name in names.items()
        ]
    siblings = [{"rfilename": name, "size": file.stat().st_size} for file, name in names.items()]
    return {"id": repository, "sha": commit, "private": repository in hub.private, "siblings": siblings}
