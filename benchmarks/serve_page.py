"""Seconds until answers show on the page, in a real browser: `python benchmarks/serve_page.py`.

- `gnm serve` with the shipped adapter in a process of its own, Debian's Chromium on its page. The first example is
  written, then each of its questions is asked.
- The page's own clock starts where a person presses the button, and is read where the page shows what is waited for.
  The answer with memory is whole before the one without is asked for; the latter's first words are told from the press
  and from where they were asked for.
- Printed: seconds on the wall, and of the processor in the service, which other work on the machine lengthens less; how
  many processes of others took more than 5 % of a processor meanwhile. With any, the wall's seconds are not the
  service's own.
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
_COMPETES = 0.05  # of a processor
_PRESSED = "() => addEventListener('click', () => { window.pressed = performance.now(); }, true)"
_SHOWN = "place => document.querySelectorAll('.answer .both p')[place]?.lastChild.data && performance.now()"
_DONE = "word => document.getElementById('status').textContent.includes(word) && performance.now()"
_LAST_ASKED = """count => {
  const asked = performance.getEntriesByType("resource").filter(each => each.name.endsWith("/ask"));
  return asked.length === count && asked.at(-1).startTime;
}"""


class Others:
    """The processes that are neither this one nor began under it."""

    def __init__(self) -> None:
        self._begun, self._before = time.perf_counter(), self._ticks()

    def competing(self) -> int:
        """How many took more than _COMPETES of a processor since this was made."""
        ticks = _COMPETES * os.sysconf("SC_CLK_TCK") * (time.perf_counter() - self._begun)
        return sum(now - self._before.get(process, 0) > ticks for process, now in self._ticks().items())

    @staticmethod
    def _ticks() -> dict[int, int]:
        """What each has taken of the processors so far."""
        parent, ticks = {}, {}
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = file.read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            process = int(file.parent.name)
            parent[process], ticks[process] = int(fields[1]), int(fields[11]) + int(fields[12])

        def own(process: int) -> bool:
            return process == os.getpid() or (process in parent and own(parent[process]))

        return {process: each for process, each in ticks.items() if not own(process)}


def timed(
    server: Server, page: Page, act: Callable[[], None], waits: dict[str, tuple[str, object]]
) -> dict[str, float]:
    """Prints what `act` takes until each of `waits` (its name: a function of the page that gives its clock when it is
    true, and its argument). Returns where the clock was then, and as "pressed" when `act` began; milliseconds."""
    processor, others, told, clock = server.processor_seconds(), Others(), [], {}
    act()
    for name, (function, argument) in waits.items():
        clock[name] = page.wait_for_function(function, arg=argument).json_value()
        clock["pressed"] = page.evaluate("pressed")
        seconds = (clock[name] - clock["pressed"]) / 1000
        told.append(f"{name} {seconds:.2f} ({server.processor_seconds() - processor:.2f})")
    print(f"{', '.join(told)}; {others.competing()} processes compete", flush=True)
    return clock


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
        page.evaluate(_PRESSED)
        timed(server, page, lambda: page.click("#write-button"), {"written": (_DONE, "is written")})
        for number in range(page.locator("#questions li").count()):
            page.evaluate("document.getElementById('answers').replaceChildren()")
            waits = {
                "first words with memory": (_SHOWN, 0),
                "first words without": (_SHOWN, 1),
                "both whole": (_DONE, "Answered"),
            }
            clock = timed(server, page, page.locator("#questions li button").nth(number).click, waits)
            asked = page.wait_for_function(_LAST_ASKED, arg=2 * number + 2).json_value()
            alone = (clock["first words without"] - asked) / 1000
            said = " | ".join(page.locator(".answer .both p").all_inner_texts()).replace("\n", " ")
            print(f"   without, since it was asked for: {alone:.2f}; {said}", flush=True)
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
