"""What the page's controls act on, in a real browser: the open memory, once, and files that are text."""

from services import USERS, running
from visits import TEXT, Visit

from gnm.serve.keys import Keys


def test_actions_are_of_the_open_memory_whatever_name_is_typed(browser, gated):
    with Visit(browser, gated.url) as anna, gated.client("anna") as client:
        anna.told("send a key")
        anna.page.click("#write-button")
        anna.told("No memory is open")
        anna.page.fill("#key", USERS["anna"])
        anna.page.press("#key", "Enter")
        anna.told("is open")
        for name in ("other", "mine"):
            anna.open(name)
            anna.write(TEXT, f"Learn it for {name}.")
        anna.page.fill("#memory", "other")  # not opened
        assert anna.at("#memory-title").inner_text().endswith("mine")
        for act, told in (("#pool button", "is forgotten"), ("#undo", "undone"), ("#write-button", "is written")):
            anna.page.click(act)
            anna.told(told)
        anna.page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
        asked = []
        anna.page.click("#more summary")
        with anna.page.expect_download() as download:
            anna.page.click("#export")
        assert download.value.suggested_filename == "mine.mem"
        anna.page.click("#delete")
        anna.told("mine is deleted")
        assert asked == ["Delete the memory mine? This cannot be undone."]
        anna.page.set_input_files("#import", download.value.path())
        anna.told("is memory mine now")
        held = {
            name: [each["instruction"] for each in client.get(f"/v1/memories/{name}").json()["documents"]]
            for name in ("other", "mine")
        }
        assert held == {"other": ["Learn it for other."], "mine": ["Learn it for mine."] * 2}


def test_what_comes_late_of_another_memory_is_not_shown(browser, gated):
    with Visit(browser, gated.url) as anna:
        anna.sign_in(USERS["anna"])
        anna.told("is open")
        anna.open("slow")
        held = []
        anna.page.route("**/slow/documents", lambda route: held.append(route))
        anna.page.click("#write-button")
        anna.told("Reading and writing")
        anna.open("quick")
        held[0].continue_()
        anna.told("is written")
        assert anna.at("#memory-title").inner_text().endswith("quick")
        assert anna.at("#pool .what").count() == anna.at(".shading").count() == 0


def test_a_second_ctrl_enter_writes_nothing(browser, gated):
    with Visit(browser, gated.url) as anna:
        anna.sign_in(USERS["anna"])
        anna.told("is open")
        anna.open("twice")
        sent = []
        anna.page.on("request", lambda request: request.method == "POST" and sent.append(request.url))
        anna.page.focus("#instruction")
        anna.page.keyboard.press("Control+Enter")
        anna.page.keyboard.press("Control+Enter")
        anna.told("is written")
        assert len(sent) == 1
        again = "new KeyboardEvent('keydown', {key: 'Enter', ctrlKey: true, repeat: true, bubbles: true})"
        anna.page.evaluate(f"document.getElementById('instruction').dispatchEvent({again})")
        assert "is written" in anna.at("#status").inner_text() and len(sent) == 1
        assert anna.at("#pool .what").count() == 1


def test_the_focus_goes_where_the_work_goes_on(browser, gated):
    with Visit(browser, gated.url) as anna:
        anna.told("send a key")
        assert anna.focused() == "key"
        anna.sign_in(USERS["anna"])
        anna.told("is open")
        assert anna.focused() == "document"
        anna.open("focus")
        for text in ("One is here.", "Two is here."):
            anna.write(text, "Learn it all.")
        for number, then in ((0, "Forget document 1"), (1, "undo")):
            anna.page.focus(f"[aria-label='Forget document {number}']")
            anna.page.keyboard.press("Enter")
            anna.told(f"Document {number} is forgotten")
            assert anna.focused() == then


def test_another_window_is_told_no_name(browser, gated):
    with Visit(browser, gated.url) as anna:
        anna.sign_in(USERS["anna"])
        anna.told("is open")
        anna.open("secret")
        with anna.page.context.expect_page() as opened:
            anna.page.evaluate("window.open(location.href, '_blank', 'noopener')")
        opened.value.wait_for_selector("#sign-in:not([hidden])")
        assert opened.value.input_value("#memory") == "first"


def test_files_that_are_no_text_or_too_long_are_refused_at_once(browser, tmp_path):
    files = {"latin.txt": "Zürich".encode("latin-1"), "long.txt": b"x" * 101, "huge.txt": b"x" * 401}
    files["own.txt"] = ("ü" * 100).encode()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with (
        running(tmp_path / "memories", Keys(), limits={"document_characters": 100}) as started,
        Visit(browser, started.url) as visit,
    ):
        visit.told("is open")
        before = visit.page.input_value("#document")
        for name, told in (
            ("latin.txt", "latin.txt is no text in UTF-8"),
            ("long.txt", "long.txt has more than 100 characters"),
            ("huge.txt", "huge.txt has more than 100 characters"),
        ):
            visit.page.set_input_files("#file", tmp_path / name)
            visit.told(told)
            assert visit.page.input_value("#document") == before and visit.page.input_value("#file") == ""
        visit.page.set_input_files("#file", tmp_path / "own.txt")
        visit.told("own.txt is the document now")
        assert visit.page.input_value("#document") == "ü" * 100 and visit.page.input_value("#file") == ""
        for check in (False, True):
            visit.page.set_checked("#split", check)
            with visit.page.expect_request("**/documents") as sent:
                visit.page.click("#preview")
            assert sent.value.post_data_json["long"] == ("split" if check else "refuse")
            visit.told("Nothing was changed")


def test_a_document_without_notes_is_not_shown_as_nothing(browser, gated):
    with Visit(browser, gated.url) as anna, gated.client("anna") as client:
        body = {"document": TEXT, "instruction": "Learn it all.", "keep_notes": False}
        assert client.post("/v1/memories/bare/documents", json=body).json()["slots"]
        anna.sign_in(USERS["anna"])
        anna.told("is open")
        anna.open("bare")
        assert anna.at("#pool .what").all_inner_texts() == ["0: (no instruction kept)"]


def test_undo_is_promised_where_it_can_be_pressed(browser, tmp_path):
    with running(tmp_path, Keys(), undo_steps=0) as started, Visit(browser, started.url) as visit:
        visit.told("is open")
        visit.write("One is here.", "Learn it all.")
        visit.page.focus("#pool button")
        visit.page.keyboard.press("Enter")
        visit.told("Document 0 is forgotten")
        assert visit.at("#status").inner_text() == "Document 0 is forgotten." and visit.focused() == "words"
        changed = {"name": "first", "slots": 0, "capacity": None, "stored": None, "documents": [], "dropped": 3}
        answers = [{**changed, "can_undo": can} for can in (False, True)]
        visit.page.route("**/revoke", lambda route: route.fulfill(json=answers.pop(0)))
        for can, told in ((False, "3 slots are taken back."), (True, "3 slots are taken back; Undo brings them back.")):
            visit.page.fill("#words", "Forget Bern.")
            visit.page.press("#words", "Enter")
            visit.told(told)
            assert visit.at("#undo").is_enabled() == can


def test_a_question_is_asked_of_the_open_memory_though_the_page_saw_nothing_in_it(browser, gated):
    with Visit(browser, gated.url) as anna, gated.client("anna") as client:
        anna.sign_in(USERS["anna"])
        anna.told("is open")
        anna.open("late")
        asked = []
        anna.page.on(
            "request", lambda request: request.url.endswith("/ask") and asked.append(request.url.split("/")[-2])
        )
        for written in (False, True):
            asked.clear()
            if written:
                body = {"document": TEXT, "instruction": "Learn it all."}
                client.post("/v1/memories/late/documents", json=body)
            anna.page.fill("#question", "Where is Bern?")
            anna.page.press("#question", "Enter")
            anna.at(".answer").nth(int(written)).wait_for()
            anna.told("Answered")
            assert asked == (["late", "no-memory"] if written else ["late", "no-memory", "no-memory"])
            first = anna.at(".answer .from").first.inner_text()
            assert first == ("With memory" if written else "With memory, which is empty")
        assert anna.at("#pool .what").count() == 0


def test_shadings_are_of_the_document_that_was_sent(browser, gated):
    with Visit(browser, gated.url) as anna:
        anna.sign_in(USERS["anna"])
        anna.told("is open")
        held = []
        anna.page.route("**/documents", lambda route: held.append(route))
        anna.page.fill("#document", TEXT)
        anna.page.fill("#instruction", "Learn it all.")
        anna.page.click("#preview")
        anna.told("Reading")
        anna.page.fill("#document", "Another document.")
        held[0].continue_()
        anna.told("Nothing was changed")
        anna.page.unroute("**/documents")
        for document, instruction, count in (
            ("Another document.", "Only the places.", 1),
            (TEXT, "Learn it all.", 1),
            (TEXT, "Only the places.", 2),
        ):
            anna.write(document, instruction, button="#preview")
            assert anna.at(".shading").count() == count


def test_the_memory_that_is_always_empty_says_so(browser, gated):
    with Visit(browser, gated.url) as anna:
        anna.sign_in(USERS["anna"])
        anna.told("is open.")
        anna.open("no-memory")
        anna.told("always empty, nothing can be written to it")
