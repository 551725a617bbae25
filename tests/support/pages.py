"""A page in a real browser: what it asks for, what it complains about, whether it can be read."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NO_BROWSER = "no browser is installed (Debian: apt-get install chromium)"
_QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
_WIDTHS = {"phone": 390, "desk": 1440}


@contextmanager
def open_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        yield browser
        browser.close()


class Watched:
    """A page whose console, faults and requests are written down."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.page: Page = browser.new_context(**options).new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("requestfailed", lambda request: self._note(f"{request.url[:200]} failed"))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _note(self, text: str) -> None:
        self.errors.append(text)

    @property
    def outside(self) -> list[str]:
        """Requests that leave the machine."""
        here = ("file:", "data:", "blob:", "about:")
        return [url for url in self.requests if not url.startswith(here) and urlsplit(url).hostname != "127.0.0.1"]


def check_page(browser: Browser, path: Path, device: str, scheme: Any) -> int:
    """Assert that a page, all unfolded, is whole, quiet and accessible; how many pictures it has."""
    watched = Watched(browser, viewport={"width": _WIDTHS[device], "height": 900}, color_scheme=scheme)
    page = watched.page
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert watched.errors == []
    assert watched.outside == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it overflows sideways"
    pictures = page.locator("img")
    assert all(image.evaluate("image => image.complete && image.naturalWidth > 0") for image in pictures.all())
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    serious = {fault["id"]: [node["html"][:150] for node in fault["nodes"][:3]] for fault in found
               if fault["impact"] in {"serious", "critical"}}  # fmt: skip
    assert serious == {}, f"{path.name}, {device}, {scheme}"
    count = pictures.count()
    page.context.close()
    return count
