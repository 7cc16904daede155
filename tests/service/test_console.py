"""The web console in a real Chromium, on a real server with a key and two models, with real photos."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from activation import NEW, OLD, two_models
from browser import DESKTOP, PHONE, Console, chromium, drop, upload
from live_server import LiveServer, live_server, wait_until
from photos import astronaut, encode, group, hopper
from PIL import Image
from playwright.sync_api import Browser, expect

from models.calibration import Calibration
from models.registry import Registry
from service.domain import Receipt
from service.security.receipts import verify as holds

ADMIN = "0123456789abcdef0123456789abcdef"
PAGES = ("Verify", "People", "Identify", "Models", "System")
ASTRONAUT = encode(astronaut(), "JPEG", quality=92)
MIRRORED = encode(np.ascontiguousarray(astronaut()[:, ::-1]), "JPEG", quality=80)
SMALL = encode(np.asarray(Image.fromarray(astronaut()).resize((70, 70))), "PNG")
HOPPER = encode(hopper(), "JPEG", quality=92)
NOBODY = encode(np.full((200, 300, 3), 127, np.uint8), "JPEG")


@pytest.fixture(scope="module")
def keyed(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("console")
    two_models(models_dir, folder / "data" / "models")
    with live_server(folder / "data", api_key=ADMIN) as running:
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    film = tmp_path_factory.mktemp("film") / "camera.mjpeg"
    film.write_bytes(encode(np.asarray(Image.fromarray(astronaut()).resize((480, 480))), "JPEG", quality=95) * 3)
    with chromium(film) as running:
        yield running


@pytest.fixture
def console(browser: Browser, keyed: LiveServer) -> Iterator[Console]:
    opened = Console(browser, keyed.http)
    yield opened
    opened.check()
    opened.close()


def _collection(server: LiveServer, name: str, **people: bytes) -> str:
    assert server.client.put(f"/collections/{name}", json={"purpose": "test"}).status_code == 201
    for subject, photo in people.items():
        answer = server.client.post(f"/collections/{name}/subjects/{subject}/faces", files={"images": photo})
        assert answer.status_code == 201, answer.text
    return name


def _give(console: Console, title: str, *photos: tuple[str, bytes]) -> None:
    console.page.get_by_label(title).locator("input[type=file]").set_input_files([upload(*each) for each in photos])


def _compare(console: Console, a: bytes, b: bytes) -> None:
    _give(console, "Photo A", ("a.jpg", a))
    _give(console, "Photo B", ("b.jpg", b))
    console.page.locator(".verdict").wait_for()


def _answer(server: LiveServer, a: bytes, b: bytes) -> dict[str, Any]:
    document: dict[str, Any] = server.client.post("/verify", files={"image_a": a, "image_b": b}).json()
    return document


def _fact(console: Console, term: str) -> str:
    return (
        console.page.locator("dl.facts > div", has=console.page.get_by_text(term, exact=True))
        .locator("dd")
        .inner_text()
    )


def test_a_wrong_key_is_refused_in_the_servers_words_and_a_good_one_lets_in(console: Console) -> None:
    page = console.page
    page.goto(f"{console.address}/console")
    page.get_by_label("API key").fill("wrong" * 8)
    page.get_by_role("button", name="Sign in").click()

    expect(page.get_by_role("alert")).to_contain_text("send a valid key as: Authorization: Bearer <key>")
    expect(page.get_by_role("alert")).to_contain_text(re.compile("[0-9a-f]{32}"))  # the id of the request
    page.get_by_label("API key").fill(ADMIN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Verify")


def test_the_key_is_in_no_storage_no_address_and_gone_after_a_reload(console: Console) -> None:
    page = console.open("people", ADMIN)
    console.go("System")

    kept = page.evaluate(
        """async () => [localStorage.length, sessionStorage.length, document.cookie, (await caches.keys()).length,
            (await indexedDB.databases()).length, history.state, navigator.serviceWorker.controller]"""
    )
    assert kept == [0, 0, "", 0, 0, None, None]
    assert ADMIN not in page.content() + page.url
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_key_revoked_meanwhile_leads_back_to_the_sign_in(console: Console, keyed: LiveServer) -> None:
    made = keyed.client.post("/keys", json={"name": "passing", "scopes": ["identify"]}).json()
    page = console.open("identify", made["key"])
    keyed.client.delete(f"/keys/{made['id']}")

    console.page.get_by_role("link", name="People", exact=True).click()

    expect(page.get_by_role("alert")).to_contain_text("no longer takes this key")
    expect(page.get_by_label("API key")).to_be_focused()


def test_whoever_signs_out_signs_in_anew(console: Console) -> None:
    page = console.open("verify", ADMIN)
    _give(console, "Photo A", ("a.jpg", ASTRONAUT))
    page.get_by_role("button", name="Sign out").click()

    expect(page.get_by_label("API key")).to_have_value("")
    page.get_by_label("API key").fill("wrong" * 8)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("send a valid key as")
    assert page.locator("canvas").count() == 0


def test_what_a_key_may_not_do_is_said_on_the_page(console: Console, keyed: LiveServer) -> None:
    made = keyed.client.post("/keys", json={"name": "only verify", "scopes": ["verify"]}).json()
    console.open("models", made["key"])

    expect(console.page.get_by_label("Jobs")).to_contain_text("this key lacks the scope for GET /jobs: admin")


def test_two_photos_are_compared_and_the_answer_drawn(console: Console, keyed: LiveServer) -> None:
    page = console.open("verify", ADMIN)
    _compare(console, ASTRONAUT, MIRRORED)
    answer = _answer(keyed, ASTRONAUT, MIRRORED)

    expect(page.locator(".verdict")).to_contain_text("Match")
    assert _fact(console, "Angle").startswith(f"{answer['angle_degrees']:.1f}°")
    assert _fact(console, "Similarity").startswith(f"{answer['similarity']:.3f} (threshold {answer['threshold']:.3f})")
    picture = page.get_by_role("img", name=f"{answer['angle_degrees']:.1f} degrees apart, within the threshold")
    expect(picture).to_be_visible()
    for name, face in (("Photo A", answer["a"]), ("Photo B", answer["b"])):
        assert _is_drawn(console, name, face)


def _is_drawn(console: Console, name: str, face: dict[str, Any]) -> bool:
    """Box and landmarks are where the API says: bright green on the box's edge, at its middle, and on each landmark."""
    x1, y1, _, y2 = face["bbox"]
    points = [[x1, (y1 + y2) / 2], *face["kps"]]
    colours = (
        console.page.get_by_label(name)
        .locator("canvas.photo")
        .evaluate(
            """(canvas, points) => {
            const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const at = ([x, y]) => 4 * (Math.floor(y) * canvas.width + Math.floor(x));
            return points.map((point) => [...data.slice(at(point), at(point) + 3)]);
        }""",
            points,
        )
    )
    assert len(colours) == 6
    return all(green > 190 and green > red + 60 for red, green, _ in colours)


def test_the_slider_decides_again_without_another_call(console: Console, keyed: LiveServer) -> None:
    page = console.open("verify", ADMIN)
    _compare(console, ASTRONAUT, SMALL)
    calibration = Calibration.model_validate(keyed.client.get(f"/models/{OLD}").json()["calibration"])
    similarity = _answer(keyed, ASTRONAUT, SMALL)["similarity"]
    expect(page.locator(".verdict")).to_contain_text("Match")

    page.get_by_role("slider").press("End")

    strictest = calibration.threshold_at(calibration.fmr_range[0]).value
    assert similarity < strictest
    expect(page.locator(".verdict")).to_contain_text("No match")
    expect(page.locator(".verdict")).to_contain_text("1 in 200,000")
    assert f"(threshold {strictest:.3f})" in _fact(console, "Similarity")
    expect(page.get_by_role("status").filter(has_text="Now no match.")).to_have_count(1)
    assert console.calls.count("POST /verify") == 1


def test_a_face_too_small_is_warned_of(console: Console) -> None:
    console.open("verify", ADMIN)
    _compare(console, ASTRONAUT, SMALL)

    expect(console.page.get_by_label("Photo B").locator(".notice").first).to_contain_text("pixels between the eyes")
    expect(console.page.get_by_label("Photo A").locator(".notice")).to_have_count(0)


def test_a_photo_without_a_face_is_told_of_where_it_is(console: Console) -> None:
    page = console.open("verify", ADMIN)
    _give(console, "Photo A", ("a.jpg", ASTRONAUT))
    _give(console, "Photo B", ("b.jpg", NOBODY))

    expect(page.get_by_role("alert")).to_contain_text("b: there is no face in the image")
    expect(page.get_by_role("alert")).to_contain_text("face_not_found")
    expect(page.get_by_label("Photo B").locator(".notice")).to_have_text("there is no face in the image")


def test_a_file_that_is_no_photo_is_refused_in_the_servers_words(console: Console) -> None:
    console.open("verify", ADMIN)
    _give(console, "Photo A", ("a.jpg", b"no photo"))
    _give(console, "Photo B", ("b.jpg", ASTRONAUT))

    expect(console.page.get_by_role("alert")).to_contain_text("a: these bytes are not a JPEG, PNG, WebP or BMP image")
    expect(console.page.get_by_label("Photo A").locator(".notice")).not_to_have_count(0)


def test_of_several_dropped_photos_one_is_taken_and_that_is_said(console: Console) -> None:
    page = console.open("verify", ADMIN)
    drop(page, "Photo A", ("a.jpg", ASTRONAUT), ("b.jpg", HOPPER))

    expect(page.get_by_role("group", name="Photo A")).to_contain_text("Only the first of 2 files was taken.")


def test_a_turned_photo_is_shown_upright_with_the_box_on_the_face(console: Console, keyed: LiveServer) -> None:
    upright = Image.fromarray(astronaut()[:, :400])
    exif = Image.Exif()
    exif[274] = 6  # to be turned right by a quarter
    turned = encode(np.asarray(upright.rotate(90, expand=True)), "JPEG", quality=95, exif=exif)
    console.open("verify", ADMIN)
    _compare(console, turned, ASTRONAUT)

    size = console.page.get_by_label("Photo A").locator("canvas.photo").evaluate("c => [c.width, c.height]")
    assert size == [400, 512]
    assert _is_drawn(console, "Photo A", _answer(keyed, turned, ASTRONAUT)["a"])


def test_a_large_photo_is_drawn_at_the_size_of_the_page_and_sent_whole(console: Console, keyed: LiveServer) -> None:
    large = encode(np.asarray(Image.fromarray(astronaut()).resize((2400, 2400))), "JPEG", quality=80)
    page = console.open("verify", ADMIN)
    _compare(console, large, ASTRONAUT)

    assert page.get_by_label("Photo A").locator("canvas.photo").evaluate("c => [c.width, c.height]") == [1600, 1600]
    similarity = _answer(keyed, large, ASTRONAUT)["similarity"]
    assert _fact(console, "Similarity").startswith(f"{similarity:.3f}")


def test_the_arithmetic_of_the_page_is_that_of_the_server(
    console: Console, keyed: LiveServer, registry: Registry
) -> None:
    document = keyed.client.get(f"/models/{OLD}").json()["calibration"]
    calibration = Calibration.model_validate(document)
    assert calibration == registry.resolve("embedder").manifest.calibration
    low, high = calibration.fmr_range
    rates = [float(rate) for rate in np.geomspace(low * 1.0001, high * 0.9999, 40)]
    cosines = [float(value) for value in np.linspace(-1, 1, 41)]
    console.page.goto(f"{console.address}/console")

    thresholds, probabilities, back = console.page.evaluate(
        """async ([calibration, rates, cosines]) => {
            const it = await import(new URL("console/static/js/calibration.js", location.href));
            const thresholds = rates.map((rate) => it.thresholdAt(calibration, rate));
            const back = thresholds.map((threshold) => it.rateOf(calibration, threshold).rate);
            return [thresholds, cosines.map((each) => it.probability(calibration, each)), back];
        }""",
        [document, rates, cosines],
    )

    assert thresholds == pytest.approx([calibration.threshold_at(rate).value for rate in rates], abs=1e-12)
    assert probabilities == pytest.approx([calibration.probability(each) for each in cosines], abs=1e-12)
    assert back == pytest.approx(rates, rel=1e-6)


def test_a_collection_is_made_and_people_enrolled_with_a_result_for_each_photo(
    console: Console, keyed: LiveServer
) -> None:
    page = console.open("people", ADMIN)
    page.get_by_role("button", name="New collection").click()
    page.get_by_label("Name").fill("door-lab")
    page.get_by_label("Purpose").fill("who may come in")
    page.get_by_label("Enrol nobody without a consent reference").check()
    page.get_by_role("button", name="Create").click()
    page.get_by_label("Person").fill("Eileen Collins")
    page.get_by_label("Consent reference").fill("form-17")
    _give(console, "Photos to enrol", ("one.jpg", ASTRONAUT), ("wall.jpg", NOBODY), ("two.jpg", MIRRORED))

    results = page.get_by_label("Photos", exact=True).get_by_role("listitem")
    expect(results.filter(has_text="one.jpg")).to_contain_text("enrolled quality 0.9")
    expect(results.filter(has_text="two.jpg")).to_contain_text("enrolled quality 0.9")
    expect(results.filter(has_text="wall.jpg")).to_contain_text("there is no face in the image")
    expect(page.get_by_label("Enrol", exact=True)).to_contain_text("Enrolled 2 of 3 photos of Eileen Collins.")
    expect(page.get_by_role("button", name="door-lab")).to_contain_text("1 person, 2 faces")
    faces = keyed.client.get("/collections/door-lab/subjects/Eileen%20Collins").json()["faces"]
    assert [face["consent"] for face in faces] == ["form-17", "form-17"]


def test_photos_are_enrolled_by_dropping_them_and_by_the_camera(console: Console, keyed: LiveServer) -> None:
    name = _collection(keyed, "dropped")
    page = console.open("people", ADMIN)
    page.get_by_role("button", name=name).click()
    page.get_by_label("Person").fill("somebody")
    drop(page, "Photos to enrol", ("dropped.jpg", ASTRONAUT))
    expect(page.get_by_label("Photos", exact=True)).to_contain_text("enrolled quality")

    page.get_by_role("button", name="Camera: Photos to enrol").click()
    page.get_by_role("button", name="Take photo").click()

    results = page.get_by_label("Photos", exact=True).get_by_role("listitem")
    expect(results.filter(has_text="camera.jpg")).to_contain_text("enrolled quality")
    assert keyed.client.get(f"/collections/{name}").json()["faces"] == 2


def test_a_person_is_erased_after_a_question_and_the_receipt_holds(console: Console, keyed: LiveServer) -> None:
    name = _collection(keyed, "leaving", alice=ASTRONAUT)
    page = console.open("people", ADMIN)
    page.get_by_role("button", name=name).click()
    page.get_by_role("button", name="Erase alice").click()
    page.get_by_role("button", name="Keep").click()
    assert keyed.client.get(f"/collections/{name}").json()["subjects"] == 1

    page.get_by_role("button", name="Erase alice").click()
    page.get_by_role("dialog").get_by_role("button", name="Erase", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download receipt").click()

    receipt = json.loads(Path(download.value.path()).read_text())
    assert holds(Receipt(**receipt))
    assert (receipt["collection"], receipt["subject"], len(receipt["face_ids"])) == (name, "alice", 1)
    assert download.value.suggested_filename.startswith("receipt-leaving-alice-")
    page.get_by_role("dialog", name="Erased").get_by_role("button", name="Close").click()
    expect(page.get_by_label("People", exact=True)).to_contain_text("Nobody is enrolled")


def test_a_face_and_then_a_collection_are_erased(console: Console, keyed: LiveServer) -> None:
    name = _collection(keyed, "ending", bob=HOPPER)
    keyed.client.post(f"/collections/{name}/subjects/bob/faces", files={"images": HOPPER})
    page = console.open("people", ADMIN)
    page.get_by_role("button", name=name).click()
    page.get_by_role("button", name="bob", exact=True).click()
    page.get_by_role("button", name="Erase face 1 of bob").click()
    page.get_by_role("dialog").get_by_role("button", name="Erase face").click()
    page.get_by_role("dialog", name="Erased").get_by_role("button", name="Close").click()
    assert keyed.client.get(f"/collections/{name}").json()["faces"] == 1

    page.get_by_role("button", name="Erase collection").click()
    erase = page.get_by_role("dialog").get_by_role("button", name="Erase collection")
    expect(erase).to_be_disabled()
    page.get_by_label("To go on, type ending").fill(name)
    erase.click()
    expect(page.get_by_role("heading", name="Erased")).to_be_visible()
    assert keyed.client.get(f"/collections/{name}").status_code == 404


def test_people_are_listed_page_by_page(console: Console, keyed: LiveServer) -> None:
    name = _collection(keyed, "many")
    vectors = np.random.default_rng(0).normal(size=(25, 128))
    for number, vector in enumerate(vectors):
        url = f"/collections/{name}/subjects/person-{number:02}/faces"
        body = {"embedding": vector.tolist(), "contract_id": keyed.client.get(f"/models/{OLD}").json()["contract_id"]}
        assert keyed.client.post(url, json=body).status_code == 201
    page = console.open("people", ADMIN)
    page.get_by_role("button", name=name).click()

    people = page.get_by_label("People", exact=True).locator(".row-name")
    expect(people).to_have_count(20)
    page.get_by_role("button", name="Next").click()
    expect(people).to_have_text([f"person-{number}" for number in range(20, 25)])
    page.get_by_role("button", name="Previous").click()
    expect(people.first).to_have_text("person-00")


def test_faces_of_a_group_are_named_and_strangers_called_unknown(console: Console, keyed: LiveServer) -> None:
    name = _collection(keyed, "group", eileen=ASTRONAUT)
    page = console.open("identify", ADMIN)
    page.get_by_label("Collection").select_option(name)
    _give(console, "Photo to identify", ("group.jpg", encode(group(), "JPEG", quality=92)))

    faces = page.locator(".face")
    expect(faces).to_have_count(2)
    expect(faces.filter(has_text="eileen")).to_contain_text("known")
    expect(faces.filter(has_text="unknown")).to_contain_text("Nobody of the collection is alike enough.")
    expect(page.get_by_role("img", name="Marked: unknown; eileen.")).to_be_visible()


def test_a_photo_without_a_face_identifies_nobody(console: Console, keyed: LiveServer) -> None:
    name = _collection(keyed, "empty")
    page = console.open("identify", ADMIN)
    page.get_by_label("Collection").select_option(name)
    _give(console, "Photo to identify", ("wall.jpg", NOBODY))

    expect(page.get_by_label("People in the photo")).to_contain_text("No face in this photo")


def test_models_are_shown_with_their_curves_and_cards(console: Console, keyed: LiveServer) -> None:
    page = console.open("models", ADMIN)
    for title in ("ROC", "DET", "Errors by threshold", "Score histogram"):
        expect(page.get_by_role("img", name=title)).to_be_visible()
    scores = keyed.client.get(f"/models/{OLD}").json()["calibration"]["scores"]
    shares = [np.array(scores[kind]) / sum(scores[kind]) for kind in ("impostor", "genuine")]
    shown = np.flatnonzero(np.max(shares, axis=0) > 1e-4)
    bars = sum(int(np.count_nonzero(share[shown[0] : shown[-1] + 1])) for share in shares)
    expect(page.get_by_role("img", name="Score histogram").locator("rect")).to_have_count(bars)
    expect(page.get_by_label("Measured")).to_contain_text("45,140,413 of strangers")
    expect(page.get_by_label("Card", exact=True)).to_contain_text("This bundle has no card.")

    page.get_by_role("button", name=NEW).click()

    expect(page.get_by_role("heading", level=3, name=NEW)).to_be_visible()  # the card's own
    expect(page.get_by_label("Card", exact=True).get_by_role("row").filter(has_text="mean")).not_to_have_count(0)
    expect(page.get_by_role("img", name="ROC")).to_be_visible()
    expect(page.get_by_label("Measured")).to_contain_text("Not measured. The calibration of this bundle has rates")


def test_a_model_is_put_in_shadow_activated_and_rolled_back(console: Console, keyed: LiveServer) -> None:
    page = console.open("models", ADMIN)
    page.get_by_role("button", name=NEW).click()
    page.get_by_label("Share of /verify").select_option("1")
    page.get_by_role("button", name="Compare in shadow").click()
    expect(page.get_by_label("Shadow")).to_contain_text(f"{NEW} on 100 % of /verify")
    _answer(keyed, ASTRONAUT, MIRRORED)
    wait_until(lambda: keyed.client.get("/models/shadow").json()["compared"] == 1)
    page.get_by_role("button", name="Refresh").click()
    expect(page.get_by_label("Shadow")).to_contain_text("Of 1 comparisons 1 were decided alike")
    page.get_by_role("button", name="End").click()
    expect(page.get_by_label("Shadow")).to_contain_text("No candidate is compared")

    page.get_by_role("button", name="Activate").click()
    page.get_by_role("dialog").get_by_role("button", name="Activate").click()
    expect(page.get_by_label("Jobs")).to_contain_text("done")
    expect(page.get_by_role("button", name=NEW)).to_contain_text("champion")
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("button", name=OLD)).to_contain_text("champion")
    expect(page.get_by_label("Jobs").locator("li").first).to_contain_text("done")


def test_the_system_page_shows_what_the_metrics_say(console: Console, keyed: LiveServer) -> None:
    version = keyed.client.get("/openapi.json").json()["info"]["version"]
    page = console.open("system", ADMIN)
    _answer(keyed, ASTRONAUT, MIRRORED)

    expect(page.get_by_label("Server", exact=True)).to_contain_text(f"Version{version}")
    expect(page.get_by_label("Server", exact=True)).to_contain_text(f"{OLD} on cpu")
    expect(page.get_by_label("Answers", exact=True)).to_contain_text("/verify")
    expect(page.get_by_label("Latency", exact=True)).to_contain_text("95 % within")
    expect(page.get_by_label("Where the time goes")).to_contain_text("detect")


def test_a_server_that_is_gone_is_told_of(browser: Browser, models_dir: Path, keyed: LiveServer) -> None:
    console = Console(browser, keyed.http)
    page = console.open("people", ADMIN)
    page.route("**/collections", lambda route: route.abort())
    console.go("Identify")

    expect(page.get_by_role("alert")).to_contain_text("No answer: the server is stopped")
    expect(page.get_by_role("alert")).to_contain_text("unreachable")
    console.close()


@pytest.fixture(scope="module")
def walk(browser: Browser, keyed: LiveServer) -> Iterator[Console]:
    """One console that goes from page to page."""
    opened = Console(browser, keyed.http)
    opened.open("verify", ADMIN)
    yield opened
    opened.check()
    opened.close()


@pytest.mark.parametrize("title", PAGES)
def test_axe_finds_nothing_serious_in_light_and_dark_and_the_page_fits_a_phone(
    walk: Console, keyed: LiveServer, title: str
) -> None:
    page = walk.go(title)
    _fill(walk, keyed, title)

    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found += [f"{scheme}: {each}" for each in walk.accessibility()]
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    width = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})

    assert found == []
    assert width <= PHONE[0]


def _fill(console: Console, server: LiveServer, title: str) -> None:
    """Bring a page to where it has something to show."""
    page = console.page
    if title == "Verify":
        _compare(console, ASTRONAUT, SMALL)
    elif title == "Models":
        page.get_by_role("img", name="ROC").wait_for()
    elif title == "System":
        page.get_by_label("Answers", exact=True).get_by_role("table").wait_for()
    else:
        if server.client.get("/collections/shown").status_code == 404:
            _collection(server, "shown", eileen=ASTRONAUT)
            console.go("System")
            console.go(title)
        if title == "People":
            page.get_by_role("button", name="shown").click()
            page.get_by_role("button", name="eileen", exact=True).click()
            page.locator(".row-detail li").wait_for()
            page.get_by_role("button", name="Erase eileen").click()
            page.get_by_role("dialog").wait_for()
        else:
            page.get_by_label("Collection").select_option("shown")
            _give(console, "Photo to identify", ("group.jpg", encode(group(), "JPEG")))
            page.locator(".face").first.wait_for()


def test_axe_finds_nothing_serious_in_the_sign_in(console: Console) -> None:
    console.page.goto(f"{console.address}/console")
    console.page.get_by_label("API key").wait_for()

    assert console.accessibility() == []


def test_the_keyboard_alone_is_enough(console: Console) -> None:
    page = console.open("verify", ADMIN)
    page.get_by_role("link", name="Facesphere console, start").focus()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()

    page.get_by_role("link", name="People", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="People")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="New collection")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="New collection")).to_be_focused()


def test_colours_follow_the_system_until_they_are_chosen(console: Console) -> None:
    page = console.open("verify", ADMIN)

    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = background()
    page.emulate_media(color_scheme="dark")
    dark = background()
    page.get_by_role("button", name="Colours: auto").click()
    assert (light != dark, background()) == (True, light)
    page.get_by_role("button", name="Colours: light").click()
    page.emulate_media(color_scheme="light")
    assert background() == dark
