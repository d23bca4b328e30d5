"""A stand-in of the Hugging Face hub: the part of its protocol that vectors need.

Repositories, branches and commits are kept in memory. As on the hub, binary files go through Git
LFS (batch, upload, verification) and are downloaded through a redirect; others are in the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN, USER = "hf_of_the_stand_in", "user"
_REPO = r"([\w.-]+/[\w.-]+)"
Files = dict[str, bytes]


@dataclass
class Repository:
    """Its branches and pull requests (name -> commit) and commits (hash -> files)."""

    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, ref: str, files: Files, message: str) -> str:
        """Add a commit with these files on top of a reference, and return its hash."""
        parent = self.refs.get(ref, "")
        digest = hashlib.sha1(repr((len(self.commits), parent, message)).encode()).hexdigest()
        self.commits[digest] = self.commits.get(parent, {}) | files
        self.refs[ref] = digest
        self.messages.append(message)
        return digest

    def resolve(self, revision: str) -> str | None:
        """Return the hash of a reference or a hash, None for any other."""
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """What the stand-in holds, and the requests that it got."""

    endpoint: str = ""
    down: bool = False  # every answer is 503
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)  # uploaded by LFS: SHA-256 -> content
    verified: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def create(self, name: str, private: bool = False, **files: bytes) -> Repository:
        """Add a repository with a first commit of these files (``__`` stands for a dot)."""
        repository = self.repositories[name] = Repository(private)
        own = {file.replace("__", "."): content for file, content in files.items()}
        repository.commit("main", {".gitattributes": b"", **own}, "initial commit")
        return repository


class Refusal(Exception):
    """An HTTP error with the hub's own code in a header."""

    def __init__(self, status: int, code: str, message: str, **facts: str) -> None:
        super().__init__(message)
        self.status = status
        self.content = json.dumps({"error": message, **facts}).encode()
        self.headers = {"X-Error-Code": code, "X-Error-Message": message}


@contextmanager
def serve() -> Iterator[Hub]:
    """Serve an empty hub on the loopback address, at a free port."""
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self) -> None:
        """Call the route of the request and send what it returns."""
        url = urlsplit(self.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self.hub.requests.append((self.command, url.path))
        try:
            if self.hub.down:
                raise Refusal(503, "Unavailable", "The hub is down")
            for pattern, route in ROUTES.get(self.command, {}).items():
                if match := re.fullmatch(pattern, url.path):
                    status, headers, content = route(self, *map(unquote, match.groups()))
                    break
            else:
                raise Refusal(501, "NotImplemented", f"{self.command} {url.path} is not served")
        except Refusal as refusal:
            status, headers, content = refusal.status, refusal.headers, refusal.content
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 - http.server's names

    def user(self) -> str | None:
        return USER if self.headers.get("Authorization") == f"Bearer {TOKEN}" else None

    def repository(self, name: str, write: bool = False) -> Repository:
        """Return a repository that the user may read, or write to; 401 hides private ones."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and self.user() is None):
            raise Refusal(404 if self.user() else 401, "RepoNotFound", "Repository not found")
        if write and self.user() != name.partition("/")[0]:
            raise Refusal(403 if self.user() else 401, "Forbidden", "You have no write access")
        return found

    def files(self, name: str, revision: str) -> tuple[str, Files]:
        repository = self.repository(name)
        commit = repository.resolve(revision)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def create(self) -> Answer:
        wanted = json.loads(self.body)
        owner = wanted["organization"] or USER
        name = f"{owner}/{wanted['name']}"
        url = f"{self.hub.endpoint}/{name}"
        if self.user() is None:
            raise Refusal(401, "Unauthorized", "Invalid username or password.")
        if owner != USER:
            raise Refusal(403, "Forbidden", "You have no rights in this namespace")
        if name in self.hub.repositories:
            raise Refusal(409, "Conflict", "You already created this model repo", url=url)
        private = wanted.get("private") is True or wanted.get("visibility") == "private"
        self.hub.create(name, private)
        return as_json({"url": url, "name": name})

    def branch(self, name: str, branch: str) -> Answer:
        repository = self.repository(name, write=True)
        if branch in repository.refs:
            raise Refusal(409, "Conflict", "Reference already exists")
        repository.refs[branch] = repository.refs["main"]
        return as_json({})

    def validate_yaml(self) -> Answer:
        front = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        if front is None or not isinstance(yaml.safe_load(front[1]), dict):
            raise Refusal(400, "BadRequest", "Invalid metadata in README.md")
        return as_json({"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> Answer:
        self.repository(name, write="create_pr" not in self.query)
        self.files(name, revision)
        asked = json.loads(self.body)["files"]
        modes = [
            {"path": file["path"], "uploadMode": upload_mode(file["sample"]), "shouldIgnore": False}
            for file in asked
        ]
        return as_json({"files": modes})

    def lfs_batch(self, name: str) -> Answer:
        self.repository(name)
        if self.user() is None:
            raise Refusal(401, "Unauthorized", "Invalid username or password.")
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}"},
                "verify": {"href": f"{self.hub.endpoint}/lfs-verify"},
            }
            there = wanted["oid"] in self.hub.blobs
            objects.append({**wanted, **({} if there else {"actions": actions})})
        return as_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "BadRequest", "The content has another SHA-256")
        self.hub.blobs[oid] = self.body
        return as_json({})

    def lfs_verify(self) -> Answer:
        wanted = json.loads(self.body)
        if len(self.hub.blobs.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refusal(404, "EntryNotFound", "The object was not uploaded")
        self.hub.verified.add(wanted["oid"])
        return as_json({})

    def lfs_download(self, oid: str) -> Answer:
        if "Authorization" in self.headers:
            raise Refusal(400, "BadRequest", "The token was sent to another host")
        return 200, {"ETag": f'"{oid}"'}, self.hub.blobs[oid]

    def commit(self, name: str, revision: str) -> Answer:
        pull = "create_pr" in self.query
        repository = self.repository(name, write=not pull)
        start, _ = self.files(name, revision)
        header, *operations = map(json.loads, self.body.splitlines())
        files: Files = {}
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                raise Refusal(501, "NotImplemented", f"{operation['key']} is not served")
        if pull:
            number = sum(ref.startswith("refs/pr/") for ref in repository.refs) + 1
            revision = f"refs/pr/{number}"
            repository.refs[revision] = start
        digest = repository.commit(revision, files, header["value"]["summary"])
        made = {"success": True, "commitOid": digest}
        made["commitUrl"] = f"{self.hub.endpoint}/{name}/commit/{digest}"
        if pull:
            made["pullRequestUrl"] = f"{self.hub.endpoint}/{name}/discussions/{number}"
        return as_json(made)

    def info(self, name: str, revision: str = "main") -> Answer:
        commit, files = self.files(name, revision)
        siblings = [{"rfilename": path, "size": len(files[path])} for path in sorted(files)]
        private = self.hub.repositories[name].private
        facts = {"_id": name, "id": name, "sha": commit, "private": private, "tags": []}
        return as_json({**facts, "downloads": 0, "likes": 0, "siblings": siblings})

    def resolve(self, name: str, revision: str, path: str) -> Answer:
        commit, files = self.files(name, revision)
        if path not in files:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        content, headers = files[path], {"X-Repo-Commit": commit}
        oid = hashlib.sha256(content).hexdigest()
        if oid not in self.hub.blobs:
            blob = b"blob %d\0" % len(content) + content  # as git hashes it
            return 200, {**headers, "ETag": f'"{hashlib.sha1(blob).hexdigest()}"'}, content
        headers["X-Linked-ETag"], headers["X-Linked-Size"] = f'"{oid}"', str(len(content))
        elsewhere = self.hub.endpoint.replace("127.0.0.1", "localhost")  # another host: no token
        return 302, {**headers, "Location": f"{elsewhere}/lfs/{oid}"}, b""


Answer = tuple[int, dict[str, str], bytes]
ROUTES: dict[str, dict[str, Callable[..., Answer]]] = {
    "GET": {
        rf"/api/models/{_REPO}": Handler.info,
        rf"/api/models/{_REPO}/revision/(.+)": Handler.info,
        rf"/{_REPO}/resolve/([^/]+)/(.+)": Handler.resolve,
        r"/lfs/(\w+)": Handler.lfs_download,
    },
    "HEAD": {rf"/{_REPO}/resolve/([^/]+)/(.+)": Handler.resolve},
    "PUT": {r"/lfs/(\w+)": Handler.lfs_upload},
    "POST": {
        r"/api/repos/create": Handler.create,
        r"/api/validate-yaml": Handler.validate_yaml,
        rf"/api/models/{_REPO}/branch/(.+)": Handler.branch,
        rf"/api/models/{_REPO}/preupload/(.+)": Handler.preupload,
        rf"/api/models/{_REPO}/commit/(.+)": Handler.commit,
        rf"/{_REPO}\.git/info/lfs/objects/batch": Handler.lfs_batch,
        r"/lfs-verify": Handler.lfs_verify,
    },
}


def as_json(content: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def upload_mode(sample: str) -> str:
    """Return "lfs" for binary files, by their first 512 bytes in base64."""
    try:
        text = base64.b64decode(sample)
        text.decode()
    except UnicodeDecodeError:
        return "lfs"
    return "lfs" if b"\0" in text else "regular"
