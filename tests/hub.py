"""A stand-in for the Hugging Face hub: repositories in memory, over HTTP on the loopback, with ranges and checksums."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "c" * 40


class StandIn:
    """`repositories`: {(kind, name): {file: content}}; `cut` holds files whose first download breaks off halfway."""

    def __init__(self, repositories):
        self.repositories, self.cut, self.served, self.url = repositories, set(), [], None

    def tree(self, key):
        for path, content in self.repositories[key].items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
            if _large(path):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            yield entry


def _large(path):
    return path.endswith((".safetensors", ".pth", ".bin"))


def _blob(content):
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def stand_in(repositories):
    """Serve `repositories` until the end of the block."""
    hub = StandIn(repositories)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            path = unquote(urlparse(self.path).path)
            if match := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/(revision|tree)/([^/]+)(/.*)?", path):
                kind, name, what, _, _ = match.groups()
                if (kind, name) not in hub.repositories:
                    return self.missing("RepoNotFound")
                info = {"id": name, "sha": COMMIT, "siblings": [], "tags": [], "private": False, "downloads": 0}
                said = info if what == "revision" else list(hub.tree((kind, name)))
                return self.send(json.dumps(said).encode(), body, {"Content-Type": "application/json"})
            match = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            key = match and ("dataset" if match[1] else "model", match[2])
            if not match or match[4] not in hub.repositories.get(key, {}):
                return self.missing("EntryNotFound")
            content = hub.repositories[key][match[4]]
            etag = hashlib.sha256(content).hexdigest() if _large(match[4]) else _blob(content)
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
            if body:
                hub.served.append((match[4], start))
            if body and match[4] in hub.cut:
                hub.cut.discard(match[4])
                self.send_response(200)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.connection.close()
                return None
            return self.send(content[start:], body, headers, 206 if start else 200)

        def send(self, content, body, headers, status=200):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def missing(self, code):
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
