"""A stand-in for the Hugging Face Hub on this machine: the few addresses that a download asks, and their answers."""

from __future__ import annotations

import hashlib
import json
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

__all__ = ["TOKEN", "Hub", "serving"]

TOKEN = "hf_accepted"


@dataclass
class Hub:
    """Repositories by name: branch -> folder. Those in `gated` show their files to TOKEN alone. Notes every request."""

    repositories: dict[str, dict[str, Path]]
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    @staticmethod
    def commit(repository: str, branch: str) -> str:
        """The commit that a branch points to."""
        return hashlib.sha1(f"{repository} {branch}".encode(), usedforsecurity=False).hexdigest()

    def find(self, repository: str, revision: str) -> tuple[str, Path] | None:
        """Commit and folder of a branch or commit; None if there is none."""
        for branch, folder in self.repositories[repository].items():
            if revision in (branch, commit := self.commit(repository, branch)):
                return commit, folder
        return None


@contextmanager
def serving(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it huggingface_hub asks `hub` instead of the network, and keeps what it gets in `cache`.

    What HF_ENDPOINT would do if it were set before the library is imported.
    """

    class Bound(Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", endpoint)
    monkeypatch.setenv("HF_TOKEN_PATH", str(cache / "no-token"))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
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

    def answer(self) -> None:
        """Find out what is asked for, and whether it may be had."""
        path = unquote(urlsplit(self.path).path).strip("/")
        self.served.asked.append(path)
        parts = path.removeprefix("api/models/").split("/")
        repository, rest = "/".join(parts[:2]), parts[2:]
        if repository not in self.served.repositories:
            return self.refuse(401, "RepoNotFound", "Repository not found")
        found = self.served.find(repository, rest[1] if rest else "main")
        if found is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        commit, folder = found
        if path.startswith("api/"):
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            return self.send_json(describe(repository, commit, folder, files, tree=rest[:1] == ["tree"]))
        if repository in self.served.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(403, "GatedRepo", f"Access to model {repository} is restricted")
        file = folder.joinpath(*rest[2:])
        if not file.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        return self.send(200, file.read_bytes(), {"X-Repo-Commit": commit})

    def send_json(self, value: object) -> None:
        """Send a value."""
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str) -> None:
        """Send an error with the headers that huggingface_hub reads."""
        body = json.dumps({"error": message}).encode()
        self.send(status, body, {"X-Error-Code": code, "X-Error-Message": message})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a response."""
        self.send_response(status)
        etag = hashlib.sha256(body).hexdigest()
        for key, value in {**headers, "Content-Length": str(len(body)), "ETag": f'"{etag}"'}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def describe(repository: str, commit: str, folder: Path, files: list[Path], tree: bool) -> object:
    """The JSON of a repository, or the list of its files."""
    names = {file: file.relative_to(folder).as_posix() for file in files}
    if not tree:
        return {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in names.values()]}
    return [{"type": "file", "path": name, "size": file.stat().st_size, "oid": name} for file, name in names.items()]
