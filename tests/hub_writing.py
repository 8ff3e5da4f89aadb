"""What the stand-in of the Hub does with uploads: new repositories and branches, LFS objects, commits.

After huggingface_hub's client: POST api/repos/create, api/validate-yaml, preupload, branch and commit (ndjson), and the
git LFS batch protocol with its upload and its verification.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

__all__ = ["TOKEN", "WRITER", "Writing"]

TOKEN, WRITER = "hf_accepted", "hf_writer"
"""Of somebody who accepted all terms, and of the owner of all repositories."""
FRONT = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


class Writing(BaseHTTPRequestHandler):
    """The half of the handler that changes something; it needs the owner's token."""

    served: Any
    token: Any
    hidden: Any
    refuse: Any
    send: Any
    send_json: Any

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
            (self.served.repositories[repository][branch] / value["path"]).write_bytes(data)
        key = repository, branch
        self.served.commits[key] = self.served.commits.get(key, 0) + 1
        commit = self.served.head(repository, branch)
        url = f"http://{self.headers['Host']}/{repository}/commit/{commit}"
        return self.send_json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})
