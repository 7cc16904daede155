"""Take the pictures of docs/console.md: a real server, a real Chromium, photos in the public domain.

.venv/bin/python docs/images/take.py          # writes docs/images/*.webp
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path += [str(ROOT), str(ROOT / "tests" / "support")]

from activation import two_models  # noqa: E402
from browser import DESKTOP, PHONE, Console, chromium, upload  # noqa: E402
from live_server import LiveServer, live_server  # noqa: E402
from photos import astronaut, encode, group, hopper  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402

from models import zoo  # noqa: E402

MAX_BYTES = 150_000


def darkened() -> bytes:
    """The astronaut mirrored, turned, cropped and darkened."""
    image = Image.fromarray(astronaut()).transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(6, Image.Resampling.BICUBIC)
    return encode(np.asarray(ImageEnhance.Brightness(image.crop((80, 30, 450, 400))).enhance(0.85)), "JPEG", quality=92)


EILEEN, AGAIN = encode(astronaut(), "JPEG", quality=92), darkened()
GRACE, BOTH = encode(hopper(), "JPEG", quality=92), encode(group(), "JPEG", quality=92)
WALL = encode(np.full((300, 400, 3), 150, np.uint8), "JPEG")


def compare(console: Console) -> None:
    """Fill the page Verify."""
    page = console.open("verify")
    page.get_by_label("Photo A").locator("input").set_input_files(upload("a.jpg", EILEEN))
    page.get_by_label("Photo B").locator("input").set_input_files(upload("b.jpg", AGAIN))
    page.locator(".verdict").wait_for()


def enrol(console: Console) -> None:
    """Fill the page People."""
    page = console.open("people")
    page.get_by_label("Person").fill("Eileen Collins")
    page.get_by_label("Consent reference").fill("form-17")
    photos = [upload("portrait.jpg", EILEEN), upload("wall.jpg", WALL)]
    page.get_by_label("Photos to enrol").locator("input").set_input_files(photos)
    page.get_by_label("Enrol", exact=True).get_by_text("Enrolled 1 of 2").wait_for()
    page.get_by_role("button", name="Eileen Collins", exact=True).click()
    page.locator(".row-detail li").first.wait_for()


def identify(console: Console) -> None:
    """Fill the page Identify."""
    console.open("identify").get_by_label("Photo to identify").locator("input").set_input_files(upload("g.jpg", BOTH))
    console.page.locator(".face").first.wait_for()


def show_model(console: Console) -> None:
    """Fill the page Models."""
    console.open("models").get_by_role("img", name="Score histogram").wait_for()


def save(console: Console, name: str, height: int) -> None:
    """The top of the page as WebP, small enough for a repository."""
    width = console.page.viewport_size["width"]  # type: ignore[index]
    console.page.set_viewport_size({"width": width, "height": height})
    console.page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
    image = Image.open(io.BytesIO(console.page.screenshot()))
    target = HERE / f"{name}.webp"
    image.save(target, "WEBP", quality=82, method=6)
    size = target.stat().st_size
    assert size < MAX_BYTES, f"{target} has {size} bytes"
    print(f"{target.relative_to(ROOT)}: {image.width} x {image.height}, {size:,} bytes")


def take(browser: Browser, server: LiveServer) -> None:
    """All pictures."""
    for name, purpose in (("lab", "door of the lab"), ("visitors", "visitors of this week")):
        server.client.put(f"/collections/{name}", json={"purpose": purpose, "retention_days": 30})
    for fill, name, height, scheme in (
        (compare, "verify", 1170, "light"),
        (enrol, "people", 1080, "light"),
        (identify, "identify", 780, "dark"),
        (show_model, "models", 1290, "light"),
    ):
        console = Console(browser, server.http, DESKTOP, scheme)
        fill(console)
        save(console, name, height)
        console.check()
        console.close()
    console = Console(browser, server.http, PHONE)
    compare(console)
    console.page.set_viewport_size({"width": PHONE[0], "height": 1960})
    save(console, "phone", 1960)
    console.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        registry = two_models(ROOT / ".cache" / "models", Path(folder) / "data" / "models")
        for model_id in zoo.default_ids():
            zoo.pull(registry, model_id)
        with live_server(Path(folder) / "data") as server, chromium() as browser:
            take(browser, server)
