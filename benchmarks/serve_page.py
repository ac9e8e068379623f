"""Seconds until answers show on the page, in a real browser: `python benchmarks/serve_page.py`.

- `gnm serve` with the shipped adapter in a process of its own, Debian's Chromium on its page. The first example is
  written, then each of its questions is asked.
- The clock starts where a person presses Enter or the button, and is read where the page shows what is waited for.
  The answer with memory is whole before the one without begins.
- Printed: seconds on the wall, and of the processor in the service, which other work on the machine lengthens less;
  the machine's load, over the last minute, before and after.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from serve_load import Server

from gnm.places import default_adapter

_MILLISECONDS = 300_000
_SHOWN = "place => document.querySelectorAll('.answer .both p')[place]?.lastChild.data"
_DONE = "word => document.getElementById('status').textContent.includes(word)"


def timed(server: Server, page: Page, act: Callable[[], None], waits: dict[str, tuple[str, object]]) -> str:
    """What `act` takes until each of `waits` (its name: a function of the page, and its argument) is true."""
    wall, processor, told = time.perf_counter(), server.processor_seconds(), []
    act()
    for name, (function, argument) in waits.items():
        page.wait_for_function(function, arg=argument)
        told.append(f"{name} {time.perf_counter() - wall:.2f} ({server.processor_seconds() - processor:.2f})")
    return ", ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default=str(default_adapter()))
    options = parser.parse_args()
    rights = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no sandbox
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), "--adapter", options.adapter) as server,
        sync_playwright() as driver,
        driver.chromium.launch(executable_path=shutil.which("chromium"), args=rights) as browser,
    ):
        page = browser.new_page()
        page.set_default_timeout(_MILLISECONDS)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; seconds (of the processor)", flush=True)
        page.goto(server.url)
        page.wait_for_selector("#questions li")
        write = {"written": (_DONE, "is written")}
        print(timed(server, page, lambda: page.click("#write-button"), write), flush=True)
        for number in range(page.locator("#questions li").count()):
            page.evaluate("document.getElementById('answers').replaceChildren()")
            waits = {
                "first words with memory": (_SHOWN, 0),
                "first words without": (_SHOWN, 1),
                "both whole": (_DONE, "Answered"),
            }
            chip = page.locator("#questions li button").nth(number)
            print(timed(server, page, chip.click, waits), flush=True)
            print("   " + " | ".join(page.locator(".answer .both p").all_inner_texts()).replace("\n", " "), flush=True)
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
