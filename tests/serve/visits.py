"""A user's window on the page."""

SECONDS = 60_000  # milliseconds that anything may take on a busy machine
TEXT = "Bern is in Asia. Mozart was a goalkeeper, and Oslo is warm. Nothing else."


class Visit:
    """A user's window on the page, which fails the test on an error of a script or a request to another host."""

    def __init__(self, browser, url, **options):
        self._context = browser.new_context(**{"viewport": {"width": 1360, "height": 860}, **options})
        self.page, self.faults = self._context.new_page(), []
        self.page.set_default_timeout(SECONDS)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on(
            "request",
            lambda request: request.url.startswith((url, "blob:", "data:")) or self.faults.append(request.url),
        )
        self.page.goto(url)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._context.close()
        if error[0] is None:
            assert self.faults == []

    def at(self, selector):
        return self.page.locator(selector)

    def told(self, text):
        from playwright.sync_api import expect

        expect(self.at("#status")).to_contain_text(text)

    def sign_in(self, key):
        self.told("send a key")
        self.page.fill("#key", key)
        self.page.press("#key", "Enter")

    def open(self, name):
        self.page.fill("#memory", name)
        self.page.press("#memory", "Enter")
        self.told(f"{name} is open")

    def focused(self):
        return self.page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')")

    def write(self, document, instruction, button="#write-button"):
        self.page.fill("#document", document)
        self.page.fill("#instruction", instruction)
        self.page.click(button)
        self.told("is written" if button == "#write-button" else "Nothing was changed")
