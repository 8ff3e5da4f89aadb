"""A Hub on this machine: repositories that can be listed, fetched and written, as huggingface_hub asks for them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import huggingface_hub.hf_api
import pytest
import yaml

TOKEN, WRITER = "hf_accepted", "hf_writer"
"""Of somebody who accepted all terms, and of the owner of all repositories."""
FRONT = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


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

    def do_POST(self) -> None:
        """A new repository or branch, a question before an upload, or a commit."""
        body, path = self.body(), unquote(urlsplit(self.path).path).strip("/")
        self.served.asked.append(path)
        if path == "api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if path == "verify":
            told = json.loads(body)
            good = len(self.served.stored[told["oid"]]) == told["size"]
            return self.send_json({}) if good else self.refuse(400, "", "size differs")
        if path == "api/repos/create":
            return None if self.locked() else self.create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return None if self.locked() else self.batch(json.loads(body))
        owner, name, what, revision = path.removeprefix("api/models/").split("/", 3)
        repository = f"{owner}/{name}"
        if self.hidden(repository) or self.locked():
            return None
        action = {"preupload": self.preupload, "branch": self.branch, "commit": self.commit}[what]
        return action(repository, revision, body)

    def do_PUT(self) -> None:
        """The bytes of an LFS object; its name is their digest."""
        data, oid = self.body(), self.path.rsplit("/", 1)[1]
        self.served.asked.append("lfs")
        if hashlib.sha256(data).hexdigest() != oid:
            return self.refuse(400, "", "digest differs")
        self.served.stored[oid] = data
        return self.send(200, b"", {})

    def body(self) -> bytes:
        """What the client sends, in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def locked(self) -> bool:
        """Whether this client may not write, who is then told so."""
        if self.token == WRITER:
            return False
        known = self.token == TOKEN
        self.refuse(403 if known else 401, "", "Forbidden" if known else "Invalid username or password.")
        return True

    def create(self, wanted: dict[str, Any]) -> None:
        """A repository with one commit, as the Hub makes it."""
        repository = f"{wanted['organization']}/{wanted['name']}"
        url = f"http://{self.headers['Host']}/{repository}"
        if repository in self.served.repositories:
            there = {"error": "You already created this model repo", "url": url}
            return self.send(409, json.dumps(there).encode(), {"Content-Type": "application/json"})
        folder = self.served.place / repository / "main"
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        self.served.repositories[repository] = {"main": folder}
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.served.private.add(repository)
        return self.send_json({"url": url})

    def validate(self, content: str) -> None:
        """Whether a README.md begins with YAML."""
        front = FRONT.match(content)
        try:
            good = front is not None and isinstance(yaml.safe_load(front[1]), dict)
        except yaml.YAMLError:
            good = False
        errors = [] if good else [{"message": "no YAML"}]
        self.send(200 if good else 400, json.dumps({"errors": errors, "warnings": []}).encode(), {})

    def preupload(self, repository: str, revision: str, body: bytes) -> None:
        """What kind of upload each file wants: LFS for what does not look like text."""
        modes = []
        for file in json.loads(body)["files"]:
            binary = b"\0" in base64.b64decode(file["sample"])
            modes.append({"path": file["path"], "uploadMode": "lfs" if binary else "regular", "shouldIgnore": False})
        self.send_json({"files": modes})

    def batch(self, wanted: dict[str, Any]) -> None:
        """Where to put LFS objects."""
        here = f"http://{self.headers['Host']}"
        objects = [
            {**each, "actions": {"upload": {"href": f"{here}/lfs/{each['oid']}"}, "verify": {"href": f"{here}/verify"}}}
            for each in wanted["objects"]
        ]
        self.send_json({"transfer": "basic", "objects": objects})

    def branch(self, repository: str, branch: str, body: bytes) -> None:
        """A branch that begins where main is."""
        branches = self.served.repositories[repository]
        if branch in branches:
            return self.refuse(409, "", "Reference already exists")
        branches[branch] = self.served.place / repository / branch
        shutil.copytree(branches["main"], branches[branch])
        return self.send_json({})

    def commit(self, repository: str, branch: str, body: bytes) -> None:
        """Files from the request or from LFS, on top of the commit that the client saw."""
        head, *lines = (json.loads(line) for line in body.splitlines())
        if branch not in self.served.repositories[repository]:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        if head["value"].get("parentCommit") not in (None, self.served.head(repository, branch)):
            return self.refuse(412, "", "A commit has happened since. Please refresh and try again.")
        for line in lines:
            value = line["value"]
            large = line["key"] == "lfsFile"
            data = self.served.stored[value["oid"]] if large else base64.b64decode(value["content"])
            file = self.served.repositories[repository][branch] / value["path"]
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(data)
        key = repository, branch
        self.served.commits[key] = self.served.commits.get(key, 0) + 1
        commit = self.served.head(repository, branch)
        url = f"http://{self.headers['Host']}/{repository}/commit/{commit}"
        return self.send_json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})


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
