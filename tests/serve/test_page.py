"""The page in a real browser, Debian's Chromium; its tests skip where there is none.

The screenshots of docs/ are made by `make screenshots`, which sets GNM_SCREENSHOTS for the last test.
"""

import hashlib
import os
from pathlib import Path

import pytest
from services import USERS, running
from visits import TEXT, Visit

from gnm.analysis.style import reduce_colours
from gnm.api import load
from gnm.serve.keys import Keys

PAGE = Path("src", "gnm", "serve", "page")


NOTE_PIECES = """() => {
  window.places = [];
  const note = (changed) => {
    const both = [...document.querySelectorAll(".answer .both p")];
    for (const each of changed) window.places.push(both.indexOf(each.target.parentElement));
  };
  new MutationObserver(note).observe(document.getElementById("answers"), { characterData: true, subtree: true });
}"""


def test_the_tour(browser, gated):
    with Visit(browser, gated.url) as anna:
        anna.sign_in("wrong")
        anna.told("send a key")
        anna.sign_in(USERS["anna"])
        anna.told("is open")
        anna.write(TEXT, "Learn it all.")
        shading = anna.at(".shading")
        assert shading.count() == 1 and shading.locator("li").count() > 2
        assert shading.locator("li.left-out").count() and shading.locator("li:not(.left-out)").count()
        strengths = {
            line.evaluate("e => e.style.getPropertyValue('--strength')") for line in shading.locator("li").all()
        }
        assert len(strengths) > 1 and all("%" in text for text in shading.locator(".share").all_inner_texts())

        anna.page.evaluate(NOTE_PIECES)
        anna.page.fill("#question", "Where is Bern?")
        anna.page.press("#question", "Enter")
        anna.told("Answered")
        [body] = [answer.inner_text() for answer in anna.at(".answer").all()]
        places = anna.page.evaluate("window.places")
        assert places == sorted(places) and set(places) == {0, 1}  # with memory to its end, then without
        assert "Where is Bern?" in body and "With memory" in body and "Without" in body

        anna.write(TEXT, "Only the places.", button="#preview")
        assert [text.splitlines()[0] for text in anna.at(".shading").all_inner_texts()] == [
            "Document 0",
            "Preview, not stored",
        ]
        assert anna.at("#pool .what").all_inner_texts() == ["0: Learn it all."]
        left, right = (anna.at(".shading").nth(place).bounding_box() for place in (0, 1))
        assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]

        anna.page.click("text=Forget >> nth=0")
        anna.told("is forgotten")
        assert anna.at("#pool .what").count() == 0
        anna.page.click("#undo")
        anna.told("undone")
        assert anna.at("#pool .what").all_inner_texts() == ["0: Learn it all."]
        anna.page.reload()
        anna.at("#pool .what").wait_for()
        assert anna.page.input_value("#memory") == "first"
        with Visit(browser, gated.url) as ben:
            ben.sign_in(USERS["ben"])
            ben.told("is open")
            assert ben.at("#pool .what").count() == 0 and ben.at("#memories option").count() == 0
        with anna.page.expect_download() as download:
            anna.page.click("#more summary")
            anna.page.click("#export")
        file = download.value.path()
        anna.open("copy")
        anna.page.set_input_files("#import", file)
        anna.told("is memory copy now")
        assert anna.at("#pool .what").all_inner_texts() == ["0: Learn it all."]


def test_texts_are_shown_as_text_and_errors_told(browser, gated):
    with Visit(browser, gated.url) as anna:
        anna.sign_in(USERS["anna"])
        anna.told("is open")
        anna.open("html")
        anna.write("<img src=x onerror=alert(1)>. <b>Bern</b> is in Asia.", "<script>alert(2)</script> Learn it all.")
        assert anna.at(".shading img, .shading b, #pool script, .shading script").count() == 0
        anna.page.fill("#words", "Forget Bern.")
        anna.page.press("#words", "Enter")
        anna.told("keep gates")
        assert "bad" in anna.at("#status").get_attribute("class")
        unchanged = {
            "name": "html",
            "slots": 0,
            "capacity": None,
            "stored": None,
            "can_undo": True,
            "documents": [],
            "dropped": 0,
        }
        anna.page.route("**/revoke", lambda route: route.fulfill(json=unchanged))
        anna.page.press("#words", "Enter")
        anna.told("Nothing is taken back")


def test_examples_own_text_and_files_become_the_document(browser, gated, tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("Zürich is in Peru.", encoding="utf-8")
    with Visit(browser, gated.url) as visit:
        visit.told("send a key")
        first = visit.page.input_value("#document")
        visit.page.select_option("#example", index=1)
        second = visit.page.input_value("#document")
        assert first and second and first != second
        visit.page.click("#instructions li >> nth=1 >> button")
        chosen = visit.at("#instructions li").nth(1).inner_text()
        assert visit.page.input_value("#instruction") == chosen
        visit.page.set_input_files("#file", file)
        visit.page.wait_for_function("document.getElementById('document').value.startsWith('Zürich')")
        assert visit.page.input_value("#document") == file.read_text(encoding="utf-8")
        assert visit.page.input_value("#instruction") == chosen


def test_keyboard_narrow_window_and_dark(browser, tmp_path):
    with (
        running(tmp_path, Keys()) as started,
        Visit(browser, started.url, viewport={"width": 320, "height": 700}, color_scheme="dark") as visit,
    ):
        page = visit.page
        visit.at("#pool li").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
        reached = []
        page.focus("#memory")
        while (at := page.evaluate("document.activeElement.id")) != "question" and len(reached) < 40:
            reached.append(at)
            page.keyboard.press("Tab")
        wanted = [
            "memory",
            "example",
            "document",
            "file",
            "instruction",
            "write-button",
            "preview",
            "words",
            "question",
        ]
        assert [each for each in [*reached, at] if each in wanted] == wanted
        page.focus("#instruction")
        page.keyboard.press("Control+Enter")
        visit.told("is written")
        page.focus("#question")
        page.keyboard.press("Enter")
        visit.told("Answered")
        nameless = "e => ![...document.querySelectorAll('input, textarea, select')].every(e => e.labels.length)"
        assert not page.evaluate(nameless)
        assert visit.at("#pool .what").bounding_box()["width"] > 240  # on a line of its own
        page.click("#more summary")
        for width in (320, 800, 1360):
            page.set_viewport_size({"width": width, "height": 700})
            menu = visit.at(".menu").bounding_box()
            assert menu["x"] >= 0 and menu["x"] + menu["width"] <= width


def page_digest(project):
    """What the page is made of, as one number."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted((project / PAGE).iterdir()))).hexdigest()


def test_the_screenshots_are_of_this_page(project):
    made = (project / "docs" / "page" / "page.sha256").read_text().strip()
    assert made == page_digest(project), "the page has changed: make screenshots"


@pytest.mark.slow
@pytest.mark.skipif("GNM_SCREENSHOTS" not in os.environ, reason="make screenshots draws docs/page anew")
def test_screenshots(browser, smollm2, project, tmp_path):
    folder = Path(os.environ["GNM_SCREENSHOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    with running(tmp_path, Keys(), load()) as started, Visit(browser, started.url) as visit:
        visit.at("#instructions li").first.wait_for()
        visit.page.click("#write-button")
        visit.told("is written")
        for question in (0, 1):
            visit.page.click(f"#questions li >> nth={question} >> button")
            visit.told("Answered")
            visit.page.evaluate("document.getElementById('status').textContent = ''")
        visit.page.click("#instructions li >> nth=1 >> button")
        visit.page.click("#preview")
        visit.told("Nothing was changed")
        assert "golf" in visit.at(".answer").last.inner_text()
        visit.page.screenshot(path=folder / "light.png", full_page=True)
        visit.page.emulate_media(color_scheme="dark")
        visit.page.screenshot(path=folder / "dark.png", full_page=True)
        visit.page.set_viewport_size({"width": 420, "height": 900})
        visit.page.screenshot(path=folder / "narrow.png", full_page=True)
    for drawn in folder.glob("*.png"):
        reduce_colours(drawn)
    (folder / "page.sha256").write_text(f"{page_digest(project)}\n")
