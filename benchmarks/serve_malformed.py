"""Malformed requests against a service: `python benchmarks/serve_malformed.py --requests 10000`.

- The service runs on a tiny random backbone in a process of its own. Requests are bytes on a socket: broken HTTP,
  broken JSON, wrong types and sizes, foreign paths, files that are none.
- Every one must be answered, or its connection closed, in time; never with an error of the service's own (500).
- Some of them are valid after all, and write. After each tenth what was written is deleted, so that the memory of the
  process is that of a service without memories; it is printed, with the answers by status. The second half are the
  requests of the first again: the largest batch of questions is known by then, whose room is kept for the next one
  (`gnm.devices`), and what still grows is a leak or what the allocator wastes.
"""

import argparse
import asyncio
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import httpx2
from serve_load import Server

NAME = "/v1/memories/malformed"
_AT_ONCE, _PARTS = 16, 10
_RETRY = 0.1  # seconds until a request is sent again that came when too many of its user were there
VALID = {
    f"{NAME}/documents": {"document": "Bern is in Asia.", "instruction": "Learn it all."},
    f"{NAME}/ask": {"questions": ["Where is Bern?"], "max_new_tokens": 2},
    f"{NAME}/revoke": {"instruction": "Forget it."},
    f"{NAME}/merge": {"other": "other"},
    "/v1/chat/completions": {"model": "malformed", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
}
ODD = [
    None, True, -1, 0, 2**70, 1e308, "", " ", "\x00", "\u202e", "\ud800", "../x", [], [[]], {}, {"a": 1}, [None],
    "x" * 5_000, ["y"] * 100, [{"role": "user"}], [{"role": "tool", "content": "x"}], "split", {"__proto__": {}},
]  # fmt: skip
PATHS = [
    "/", "//", "/v1", "/v1/memories/../../etc/passwd", "/v1/memories/%2e%2e%2fx", "/v1/memories/%00", "/%",
    "/v1/memories/" + "a" * 300, "/v1/memories/a/documents/-1", "/v1/memories/a/documents/99999999999999999999",
    "/v1/memories/a/documents/" + "9" * 5_000, "/v1/memories/a/documents/0x1", "/metrics/../v1",
    "/v1/memories/\xff", "http://other.example/v1/memories", "*",
    "/v1/memories/a?b=%zz", "/page.js%00.html", "/.git/config", "/v1/memories/a/file/b", "/" + "b" * 70_000,
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "HEAD", "get", "BREW", "", "G\x00T"]
HEADERS = [
    b"", b"Content-Length: -1", b"Content-Length: 1e9", b"Content-Length: 99999999999999999999",
    b"Content-Length: 5\r\nContent-Length: 6", b"Transfer-Encoding: chunked\r\nContent-Length: 3",
    b"Transfer-Encoding: x", b"Host: other.example", b"Origin: null", b"Authorization: \xff\xfe",
    b"X: " + b"y" * 70_000, b"Expect: 100-continue", b"Upgrade: websocket", b"no colon",
    b": no name", b"Content-Encoding: gzip", b"Range: bytes=0-",
    b"Cookie: " + b"=" * 1_000,
]  # fmt: skip


def malformed(rng: random.Random, host: str) -> bytes:
    """A request that is wrong in one way or several."""
    kind = rng.choice(("bytes", "head", "json", "value", "value", "value", "file"))
    path, value = rng.choice(list(VALID.items()))
    if kind == "bytes":
        return rng.randbytes(rng.randrange(1, 400)) + b"\r\n\r\n"
    if kind == "head":
        extra = rng.choice(HEADERS)
        return request(host, rng.choice(METHODS), rng.choice([*PATHS, *VALID]), json.dumps(value).encode(), extra)
    if kind == "file":
        return request(host, "PUT", f"{NAME}{rng.randrange(5)}/file", broken_file(rng))
    text = json.dumps(changed(value, rng) if kind == "value" else value).encode()
    return request(host, "POST", path, broken_json(text, rng) if kind == "json" else text)


def request(host: str, method: str, path: str, body: bytes, extra: bytes = b"") -> bytes:
    """A request as bytes; `extra` are further header lines."""
    lines = [f"{method} {path} HTTP/1.1".encode("latin-1"), f"Host: {host}".encode(), b"Connection: close"]
    lines += [b"Content-Type: application/json", extra] if extra else [b"Content-Type: application/json"]
    if b"Content-Length" not in extra and b"Transfer" not in extra:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def changed(value: dict, rng: random.Random) -> dict:
    """A valid body with one or two of its fields left out, replaced, or added."""
    body = dict(value)
    for _ in range(rng.randrange(1, 3)):
        key = rng.choice([*body, "store", "long", "stream", "stop", "temperature", "x"])
        if rng.random() < 0.2:
            body.pop(key, None)
        else:
            body[key] = rng.choice(ODD)
    return body


def broken_json(text: bytes, rng: random.Random) -> bytes:
    """JSON that is cut off, not UTF-8, nested too deeply, or none."""
    place = rng.randrange(len(text))
    return rng.choice(
        [text[:place], text[:place] + rng.randbytes(3) + text[place:], b"[" * 100_000, b'{"a":' * 50_000, b"", b"null",
         b"[1]", b"NaN", b'{"document": Infinity}', b"1" * 10_000, text + text, b"\xef\xbb\xbf" + text,
         b"\x1f\x8b" + text]
    )  # fmt: skip


def broken_file(rng: random.Random) -> bytes:
    """What is no memory file: noise, a header that lies, a header without tensors."""
    header = json.dumps({"__metadata__": {"format": "gnm-memory-2", "model": "x", "checksum": "0"}}).encode()
    return rng.choice(
        [b"", rng.randbytes(rng.randrange(2_000)), len(header).to_bytes(8, "little") + header,
         (2**63).to_bytes(8, "little") + header, len(header).to_bytes(8, "little") + header[:-1] + rng.randbytes(9)]
    )  # fmt: skip


async def answered(address: tuple[str, int], sent: bytes, patience: float, seconds: float) -> str:
    """The status of what comes back, or "closed"; TimeoutError if nothing does within `seconds`.

    After `patience` seconds the rest of an unfinished request is given up, so that only the service could still wait.
    """
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(sent)
            await writer.drain()
            answer = asyncio.ensure_future(reader.read())
            done, _ = await asyncio.wait([answer], timeout=patience)
            if not done:
                writer.write_eof()
            got = await answer
        except (ConnectionError, OSError):
            return "closed"
        finally:
            writer.close()
    if b"Traceback" in got:
        raise AssertionError(f"a traceback came back for {sent[:200]!r}")
    return got[9:12].decode() if got.startswith(b"HTTP/1.1 ") else "closed"


async def send_all(
    address: tuple[str, int], count: int, seed: int, patience: float = 20, seconds: float = 120
) -> Counter:
    """Send `count` malformed requests; returns how many were answered with each status."""
    rng, found = random.Random(seed), Counter()
    host = f"{address[0]}:{address[1]}"
    waiting = asyncio.Semaphore(_AT_ONCE)

    async def one(sent: bytes) -> None:
        async with waiting, asyncio.timeout(5 * seconds):
            while (status := await answered(address, sent, patience, seconds)) == "429":
                await asyncio.sleep(_RETRY)
        if status == "500":
            raise AssertionError(f"the service failed at {sent[:300]!r}")
        found[status] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one(malformed(rng, host)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server:
        for part in range(_PARTS):
            seed = options.seed + part % (_PARTS // 2)
            found = asyncio.run(send_all(server.address, options.requests // _PARTS, seed))
            httpx2.delete(f"{server.url}{NAME[1:]}", timeout=60)
            print(f"{dict(sorted(found.items()))}, {server.megabytes():.0f} MB after it", flush=True)
        assert server.healthy() and "Traceback" not in server.said()
        print("healthy, no traceback")


if __name__ == "__main__":
    main()
