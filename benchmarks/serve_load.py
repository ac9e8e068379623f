"""Many clients, many memories, and a kill: `python benchmarks/serve_load.py --memories 200 --clients 32`.

- Clients write, ask and forget, each in memories drawn anew, and remember what the service accepted. In the middle the
  service is killed (SIGKILL), started again, and every memory is compared with what was accepted.
- Lost is a document that was accepted and is not there, or was forgotten and is. Half done is one whose slots are
  not as many as of every other document: all are equally long, and an untrained memory keeps every token.
- Printed: requests a second, median and 95th percentile of their seconds, lost, half done.
"""

import argparse
import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

INSTRUCTION = "Learn it all."
_START_SECONDS, _END_SECONDS = 300, 120
_LOOK_AGAIN = 0.01  # seconds


class Server:
    """`gnm serve` in a process of its own, on a port that is free."""

    def __init__(self, folder: Path, *options: str):
        """options: of `gnm serve`; without any a tiny random backbone."""
        self._folder, self._options = folder, options or ("--backbone", "tiny")

    def __enter__(self) -> "Server":
        command = [sys.executable, "-m", "gnm.serve.program", "--port", "0", "--memories", str(self._folder)]
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen([*command, *self._options], stdout=subprocess.PIPE, stderr=self._log)
        told = self._process.stdout.readline().decode()  # http://HOST:PORT/ (...)
        if not told:
            raise RuntimeError(f"the service did not start: {self.said()}")
        self.url = told.split()[0]
        host, _, port = self.url.removeprefix("http://").rstrip("/").rpartition(":")
        self.address = host, int(port)
        try:
            httpx2.get(f"{self.url}health", timeout=_START_SECONDS)
        except httpx2.TransportError as error:
            self._process.kill()
            raise RuntimeError(f"the service does not answer: {self.said()}") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        finally:
            self._process.kill()
        self._log.close()

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def healthy(self) -> bool:
        """Whether it answers."""
        return httpx2.get(f"{self.url}health", timeout=60).status_code == 200

    def megabytes(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def processor_seconds(self) -> float:
        """What it has taken of the processors so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # of the program and the kernel for it

    def said(self) -> str:
        """Its log so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


@dataclass
class Accepted:
    """What the service has accepted, by memory: documents by number, numbers that were forgotten or perhaps were."""

    documents: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    forgotten: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    perhaps: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


async def client(number: int, url: str, memories: int, accepted: Accepted, stop: asyncio.Event, rng) -> None:
    """Work until `stop`, or until the service is gone."""
    async with httpx2.AsyncClient(base_url=url, timeout=120) as http:
        count = 0
        while not stop.is_set():
            name, kind = f"m{rng.randrange(memories)}", rng.choices(("write", "ask", "forget"), (5, 4, 1))[0]
            path, begun = f"v1/memories/{name}", time.perf_counter()
            held = set(accepted.documents[name]) - accepted.forgotten[name] - accepted.perhaps[name]
            if kind == "forget" and held:
                which = min(held)
                accepted.perhaps[name].add(which)
            try:
                if kind == "write" or not held:
                    kind, count = "write", count + 1
                    text = f"{number:03d}-{count:05d} is the mark of this document."
                    answer = await http.post(f"{path}/documents", json={"document": text, "instruction": INSTRUCTION})
                elif kind == "ask":
                    answer = await http.post(f"{path}/ask", json={"questions": ["The mark is"], "max_new_tokens": 4})
                else:
                    answer = await http.delete(f"{path}/documents/{which}")
            except httpx2.TransportError:
                return
            if answer.status_code in (429, 503):
                await asyncio.sleep(0.05)
                continue
            if answer.status_code >= 400:
                raise AssertionError(f"{kind} was answered {answer.status_code}: {answer.text}")
            accepted.seconds[kind].append(time.perf_counter() - begun)
            if kind == "write":
                accepted.documents[name][answer.json()["number"]] = text
            elif kind == "forget":
                accepted.forgotten[name].add(which)


async def load(url: str, memories: int, clients: int, requests: int, end: Callable[[], None]) -> Accepted:
    """Have `clients` work, and call `end` in the middle of it, after `requests` were accepted; returns all of those."""
    accepted, stop = Accepted(), asyncio.Event()
    work = [client(n, url, memories, accepted, stop, random.Random(n)) for n in range(clients)]
    waiting = asyncio.gather(*work)
    while not waiting.done() and sum(map(len, accepted.seconds.values())) < requests:
        await asyncio.sleep(_LOOK_AGAIN)
    if not waiting.done():
        end()
    stop.set()
    await waiting
    return accepted


def compare(url: str, accepted: Accepted) -> tuple[int, int, int]:
    """How many documents a service holds, how many of the accepted are lost, how many are half done."""
    found = lost = half = 0
    sizes: set[int] = set()
    with httpx2.Client(base_url=url, timeout=120) as http:
        for name, documents in accepted.documents.items():
            held = {each["number"]: each for each in http.get(f"v1/memories/{name}").json().get("documents", [])}
            found += len(held)
            sizes |= {each["slots"] for each in held.values()}
            half += sum(not each["beginning"] for each in held.values())
            for number, text in documents.items():
                if number in accepted.forgotten[name]:
                    lost += number in held
                elif number not in held:
                    lost += number not in accepted.perhaps[name]
                else:
                    lost += held[number]["beginning"] != text
    return found, lost, half + max(len(sizes) - 1, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", type=int, default=200)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=3_000, help="until the kill")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with Server(Path(folder)) as server:
            begun = time.perf_counter()
            work = load(server.url, options.memories, options.clients, options.requests, server.kill)
            accepted, took = asyncio.run(work), time.perf_counter() - begun
        for kind, seconds in sorted(accepted.seconds.items()):
            ordered = sorted(seconds)
            print(
                f"{kind:7s} {len(seconds):6d}  {len(seconds) / took:6.1f} a second, "
                f"median {statistics.median(ordered):.3f} s, 95 % within {ordered[int(0.95 * len(ordered))]:.3f} s"
            )
        with Server(Path(folder)) as again:
            found, lost, half = compare(again.url, accepted)
    print(f"after the kill: {found} documents in {len(accepted.documents)} memories, {lost} lost, {half} half done")


if __name__ == "__main__":
    main()
