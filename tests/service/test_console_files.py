"""What is served at /console and under which policy, whether it is in the wheel, and a server without a key."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from browser import Console, chromium
from live_server import LiveServer
from photos import ROOT
from playwright.sync_api import expect

FOLDER = ROOT / "service" / "console"
FILES = [str(path.relative_to(FOLDER)) for path in sorted((FOLDER / "static").rglob("*")) if path.is_file()]


def test_the_page_is_served_under_a_policy_that_lets_in_its_own_files_only(server: LiveServer) -> None:
    answer = server.client.get("/console")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == policy["object-src"] == "'none'"
    assert "unsafe" not in str(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_kept_by_browsers_and_asked_about_again(server: LiveServer, name: str) -> None:
    answer = server.client.get(f"/console/{name}")
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == kinds[Path(name).suffix]
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = server.client.get(f"/console/{name}", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == answer.headers["content-security-policy"]


def test_nothing_beside_the_files_is_served(server: LiveServer) -> None:
    for path in ("/console/static/", "/console/static/js", "/console/static/none.js", "/console/static/../index.html"):
        assert server.client.get(path).status_code == 404, path
    for path in ("/console/static/%2e%2e/index.html", "/console/static/..%2f..%2f__init__.py"):
        assert server.client.get(path).status_code == 404, path


def test_the_start_leads_to_the_console_by_places_that_a_proxy_may_move(server: LiveServer) -> None:
    for path, place in (("/", "console"), ("/console/", "../console")):
        answer = server.client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (307, place)
    assert server.client.head("/console").status_code == 200


def test_no_file_names_another_host_or_brings_a_style_or_script_inside_the_page() -> None:
    for path in sorted(FOLDER.rglob("*")):
        if not path.is_file():
            continue
        text = path.read_text()
        found = set(re.findall(r"https?://[^\s\"'`]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not found, (path.name, found)
        assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval)\b", text), path.name
        assert not re.search(r"\b(localStorage|sessionStorage|indexedDB|document\.cookie)\b", text), path.name
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=", page)


def test_every_file_is_in_the_wheel(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="a wheel is built with setuptools")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(_source(tmp_path))], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")

    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"service/console/index.html", *(f"service/console/{name}" for name in FILES)} <= names


def _source(tmp_path: Path) -> Path:
    """The packages' folders without what a build would leave in the checkout."""
    copied = tmp_path / "source"
    copied.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "service"):
        (copied / name).symlink_to(ROOT / name)
    return copied


def test_a_server_without_a_key_asks_for_none(server: LiveServer) -> None:
    with chromium() as browser:
        console = Console(browser, server.http)
        page = console.open("verify")

        expect(page.get_by_role("heading", level=1)).to_have_text("Verify")
        expect(page.get_by_role("button", name="Sign out")).to_be_hidden()
        console.check()
