"""A hub on this machine: serves directories under the paths that huggingface_hub asks for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Answers the model, tree and file requests of the hub's HTTP API."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments):
        """Stay silent."""

    def do_HEAD(self):
        self.respond(body=False)

    def do_GET(self):
        self.respond(body=True)

    def respond(self, *, body):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repository, rest = "/".join(parts[2:4] if api else parts[:2]), parts[4:] if api else parts[2:]
        if repository in self.server.gated and not api:
            return self.fail(403, "GatedRepo")
        directory = self.server.repositories.get(repository)
        if directory is None:
            return self.fail(401, "RepoNotFound")
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in {"main", "v1", COMMIT}:
            return self.fail(404, "RevisionNotFound")
        if api:
            return self.send_json(self.describe(repository, directory, tree=rest[:1] == ["tree"]), body=body)
        return self.send_file(directory, "/".join(rest[2:]), body=body)

    def describe(self, repository, directory, *, tree):
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        if tree:
            facts = [(str(path.relative_to(directory)), path.stat().st_size, etag(path)) for path in files]
            return [{"type": "file", "path": name, "size": size, "oid": oid} for name, size, oid in facts]
        siblings = [{"rfilename": str(path.relative_to(directory)), "size": path.stat().st_size} for path in files]
        return {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False, "downloads": 0}

    def send_json(self, value, *, body):
        data = json.dumps(value).encode()
        self.finish_response(200, {"Content-Type": "application/json"}, data, body=body)

    def send_file(self, directory, name, *, body):
        path = directory / name
        if not path.is_file():
            return self.fail(404, "EntryNotFound")
        data, status = path.read_bytes(), 200
        headers = {"ETag": f'"{etag(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        if self.command == "GET":
            self.server.bytes_sent[name] = self.server.bytes_sent.get(name, 0) + len(data)
        return self.finish_response(status, headers, data, body=body)

    def fail(self, status, code):
        self.finish_response(status, {"X-Error-Code": code, "X-Error-Message": code}, b"", body=True)

    def finish_response(self, status, headers, data, *, body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serve(repositories, gated=()):
    """Serve ``owner/name`` → directory on a free port; yields the server, whose ``url`` is the endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repositories, server.gated = dict(repositories), set(gated)
    server.requests, server.bytes_sent = [], {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
