"""A real Chromium on the web console, which notes whatever a good page never does."""

import base64
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, sync_playwright  # noqa: E402

DESKTOP, PHONE = (1280, 860), (390, 844)
_NOTE_VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", ({violatedDirective, blockedURI}) =>
    violations.push(`${violatedDirective}: ${blockedURI}`));
"""


@contextlib.contextmanager
def chromium(camera: Path | None = None) -> Iterator[Browser]:
    """The machine's own Chromium; `camera` is a film (MJPEG) that it takes for one. Without a Chromium, tests skip."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium on this machine (Debian: apt-get install chromium)")
    arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
    if camera is not None:
        arguments += [
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={camera}",
        ]
    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Console:
    """One page of the console, in a browser profile of its own."""

    def __init__(self, browser: Browser, address: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        self.address = address
        width, height = size
        self.context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            permissions=["camera"],
            accept_downloads=True,
            reduced_motion="reduce",
        )
        self.context.set_default_timeout(15_000)
        self.context.add_init_script(_NOTE_VIOLATIONS)
        self.page: Page = self.context.new_page()
        self.problems: list[str] = []
        self.calls: list[str] = []
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        self.page.on("response", self._note_response)
        self.page.on("request", lambda request: self._note_request(request.method, request.url))

    def open(self, name: str = "verify", key: str | None = None) -> Page:
        """Go to a page of the console; with a key, sign in first."""
        self.page.goto(f"{self.address}/console#/{name}")
        if key is not None:
            self.page.get_by_label("API key").fill(key)
            self.page.get_by_role("button", name="Sign in").click()
        self.page.locator(f".page-{name}").wait_for()
        return self.page

    def go(self, title: str) -> Page:
        """Another page, by its tab; the key stays."""
        self.page.get_by_role("link", name=title, exact=True).click()
        self.page.get_by_role("heading", level=1, name=title).wait_for()
        return self.page

    def check(self) -> None:
        """Nothing went wrong that no page shows: no script error, no broken policy, no call to elsewhere."""
        self.problems += [f"policy: {each}" for each in self.page.evaluate("window.violations ?? []")]
        assert not self.problems, self.problems

    def accessibility(self) -> list[str]:
        """What axe finds serious or critical."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
            for each in found
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]

    def close(self) -> None:
        """The profile is gone."""
        self.context.close()

    def _note_message(self, message: ConsoleMessage) -> None:
        # The browser reports each answer of 400 and more as an error; the page shows those, and the tests ask for some.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.problems.append(f"{message.type}: {message.text}")

    def _note_response(self, response: Response) -> None:
        if "/console" in response.url and response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")

    def _note_request(self, method: str, url: str) -> None:
        address = urlsplit(url)
        if address.scheme in ("http", "https", "ws", "wss"):
            self.calls.append(f"{method} {address.path}")
            if f"{address.scheme}://{address.netloc}" != self.address:
                self.problems.append(f"request to elsewhere: {url}")


def drop(page: Page, zone: str, *files: tuple[str, bytes]) -> None:
    """Drop files upon the place of that label, as a hand would."""
    page.get_by_role("group", name=zone).evaluate(
        """(zone, files) => {
            const carried = new DataTransfer();
            const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            for (const [name, text] of files) carried.items.add(new File([bytes(text)], name, {type: "image/jpeg"}));
            for (const kind of ["dragenter", "dragover", "drop"])
                zone.dispatchEvent(new DragEvent(kind, {dataTransfer: carried, bubbles: true, cancelable: true}));
        }""",
        [[name, base64.b64encode(data).decode()] for name, data in files],
    )


def upload(name: str, data: bytes) -> dict[str, object]:
    """A file as Playwright takes it."""
    return {"name": name, "mimeType": "image/jpeg", "buffer": data}
