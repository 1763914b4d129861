"""The console in a real browser: journeys at two widths, errors, keys, a path prefix, and a store without a release."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from helpers.service import Service, good, served

from serve.core.settings import Settings
from serve.jobs.build import build
from serve.security.api_keys import create_key, revoke_key

axe_core = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect: Any = playwright.expect
expect.set_options(timeout=20_000)  # ms; a slow machine is no failure

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
AXE = Path(axe_core.__file__).with_name("axe.min.js")
SIZES = {"desk": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
REJECTED = 600
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt install chromium")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def store(trained: Settings, shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The trained store with a feed of which rows were rejected, a table of relations, and an item that is hidden."""
    folder = tmp_path_factory.mktemp("console")
    shutil.copytree(trained.store, folder / "store", symlinks=True)
    # Nothing is shed: what a slow machine does to answers is not what is tested here.
    settings = trained.model_copy(update={"store": folder / "store", "shed_above_ms": 60_000.0})
    lines = (shop / "catalog.csv").read_text("utf-8")
    ids = [line.split(",")[0] for line in lines.splitlines()[1:]]
    empty = "," * lines.splitlines()[0].count(",") + "\n"
    hidden = f"HID-1,Forbidden lamp{empty[1:]}"
    (folder / "catalog.csv").write_text(lines + hidden + empty * REJECTED, "utf-8")
    table = "".join(f"{one},accessory,{other}\n" for one, other in pairwise(ids))
    (settings.store / "relations.csv").write_text("item_id,relation,related_id\n" + table, "utf-8")
    (settings.store / "review.toml").write_text('words = ["forbidden"]\n', "utf-8")
    assert build(settings, folder / "catalog.csv").published
    return settings


@pytest.fixture(scope="module")
def service(store: Settings) -> Iterator[Service]:
    with served(store) as running:
        yield running


@pytest.fixture
def opened(browser: Any, service: Service) -> Iterator[Any]:
    with visit(browser, service, "desk") as page:
        yield page


@contextmanager
def visit(browser: Any, service: Service, size: str) -> Iterator[Any]:
    """A page that is at the console; what went wrong in it is in `page.wrong`."""
    context = browser.new_context(
        viewport=SIZES[size], base_url=str(service.client.base_url), has_touch=size == "phone"
    )
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda said: page.wrong.append(said.text) if said.type == "error" else None)
    page.goto("/")
    yield page
    context.close()


def find(page: Any, words: str) -> None:
    page.get_by_role("combobox", name="Search").fill(words)
    page.keyboard.press("Enter")
    expect(page.locator(".found h2")).to_have_text(re.compile(r"\d+ items?|No item"))
    settled(page)


def settled(page: Any) -> None:
    """Wait until the view is there and no part of it waits for an answer."""
    expect(page.locator("main h1")).to_be_attached()
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def titles(page: Any) -> list[str]:
    """The first four."""
    settled(page)
    page.evaluate("scrollTo(0, 0)")
    found: list[str] = page.locator(".found .cards .whole").all_inner_texts()
    return found[:4]


def serious(page: Any) -> list[str]:
    """What axe-core finds of WCAG 2 A and AA that is serious or critical, in light and in dark."""
    page.evaluate(AXE.read_text("utf-8"))
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        told = page.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa']})")
        found += [
            f"{scheme}: {each['id']} at {node['target']}: {node['failureSummary']}"
            for each in told["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
    return found


def text_search(page: Any, shop: Path) -> None:
    """Type, choose a suggestion, choose a category, go back."""
    titles(page)
    page.keyboard.press("/")
    expect(page.get_by_role("combobox", name="Search")).to_be_focused()
    page.keyboard.type("strip", delay=20)
    expect(page.get_by_role("option").first).to_be_visible()
    page.keyboard.press("ArrowDown")
    suggested = page.get_by_role("listbox").get_by_role("option", selected=True).inner_text()
    page.keyboard.press("Enter")
    expect(page.locator(".found h2")).to_have_text(re.compile(r"\d+ items?"))
    assert page.get_by_role("combobox", name="Search").input_value() == suggested
    expect(page.get_by_text(f"Understood as {suggested}")).to_be_visible()
    before = titles(page)
    if page.get_by_role("button", name="Filters").is_visible():
        page.get_by_role("button", name="Filters").click()
    category = page.get_by_role("group", name="category").get_by_role("checkbox").first
    name = page.get_by_role("group", name="category").locator("label").first.locator("span").first.inner_text()
    category.check()
    expect(page.get_by_role("button", name=f"Remove category {name}")).to_be_visible()
    kept = titles(page)
    assert kept != before
    facts = page.locator(".found .card .soft.one").all_inner_texts()
    assert {fact.split(" · ")[-1] for fact in facts} == {name.split("/")[-1]}
    page.go_back()
    expect(page.get_by_role("button", name=f"Remove category {name}")).to_have_count(0)
    assert titles(page) == before


def photo(page: Any, shop: Path) -> None:
    """Choose a photo of an item: it is the first; drop another one, take it away again."""
    photos = sorted((shop / "images").glob("MUG-*.jpg"))[:1] + sorted((shop / "images").glob("SNK-*.jpg"))[:1]
    start = titles(page)
    page.locator("#photo").set_input_files(photos[0])
    expect(page.locator(".found .card").first).to_contain_text("Mugs")
    expect(page.get_by_role("button", name="Remove the photo")).to_be_visible()
    dropped = page.evaluate_handle(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "photo.jpg", {type: "image/jpeg"})); return data; }""",
        list(photos[1].read_bytes()),
    )
    for event in ("dragover", "drop"):
        page.locator("main").dispatch_event(event, {"dataTransfer": dropped, "bubbles": True})
    expect(page.locator(".found .card").first).to_contain_text("Sneakers")
    find(page, "red")  # both together
    expect(page.get_by_role("button", name="Remove the photo")).to_be_visible()
    page.get_by_role("button", name="Remove the photo").click()
    page.get_by_role("link", name="Vetrina").click()
    expect(page.get_by_role("heading", name="Popular and new")).to_be_visible()
    assert titles(page) == start


def neighbours(page: Any, shop: Path) -> None:
    """From an item to one that is like it and back, by keyboard."""
    find(page, "mug")
    first = page.locator(".found .whole").first
    first.focus()
    page.keyboard.press("Enter")
    dialog, heading = page.get_by_role("dialog", name="Item"), page.locator("#item h2")
    expect(heading).to_have_text(first.inner_text())
    expect(heading).to_be_focused()
    rows = [
        "Similar in all spaces",
        "Similar by image",
        "Similar by text",
        "Similar by behaviour (tower)",
        "Related items",
    ]
    expect(dialog.locator(".around h3")).to_have_text(rows)
    settled(page)
    shown = [row.locator(".card").count() for row in dialog.locator(".around ul").all()]
    assert shown[:4] == [6, 6, 6, 6]
    assert shown[4] > 0
    beside = dialog.locator(".around .whole").first
    title = beside.inner_text()
    beside.click()
    expect(heading).to_have_text(title)
    page.go_back()
    expect(heading).to_have_text(first.inner_text())
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(first).to_be_focused()
    assert "item=" not in page.url
    first.click()
    expect(heading).to_be_visible()
    settled(page)


def steer(page: Any, shop: Path) -> None:
    """More like one item and less like another change the order; taken back, it is as before."""
    find(page, "striped")
    before = titles(page)
    liked, unliked = before[3], before[0]
    page.get_by_role("button", name=f"More like {liked}", exact=True).click()
    expect(page.get_by_role("button", name="Remove more like")).to_be_visible()
    expect(page.locator(".chips")).to_contain_text(f"More like {liked}")
    towards = titles(page)
    assert towards != before
    page.get_by_role("button", name=f"Less like {unliked}", exact=True).click()
    expect(page.get_by_role("button", name="Remove less like")).to_be_visible()
    away = titles(page)
    assert away != towards
    assert unliked not in away or away.index(unliked) > towards.index(unliked)
    expect(page.locator(".chips")).to_contain_text(f"Less like {unliked}")
    serious_before = len(page.locator(".chip").all())
    page.get_by_role("button", name="Remove more like").click()
    expect(page.locator(".chip")).to_have_count(serious_before - 1)
    page.get_by_role("button", name="Remove less like").click()
    expect(page.locator(".chip")).to_have_count(0)
    assert titles(page) == before


def recommend(page: Any, shop: Path) -> None:
    """Clicks of a new user change the recommendations at once, with reasons in percent; another user has a history."""
    page.get_by_role("link", name="User", exact=True).click()
    expect(page.get_by_role("heading", name="Recommendations for a new user")).to_be_visible()
    before = titles(page)
    for count in (1, 2):
        page.get_by_role("button", name=re.compile("^Click: ")).nth(3).click()
        expect(page.locator(".history .simulated")).to_have_count(count)
        settled(page)
    after = titles(page)
    assert after != before
    expect(page.locator(".found .sentence").first).to_contain_text("Because")
    reasons = page.locator(".found .card").first.locator(".why li")
    assert reasons.count() > 1
    shares = reasons.locator(".figures").all_inner_texts()
    assert all(re.fullmatch(r"[+−]\d+ %", share) for share in shares), shares
    assert sum(int(share[1:-2]) for share in shares) <= 102  # of all reasons, of which the largest are shown
    while page.locator(".history .simulated").count():
        page.get_by_role("button", name=re.compile("^Undo")).first.click()
        settled(page)
    assert titles(page) == before
    if not page.locator(".recent").is_visible():
        page.get_by_text("Recently active").click()
    known = page.locator(".recent button").nth(1)
    name = known.locator("span").first.inner_text()
    known.click()
    expect(page.get_by_role("heading", name=f"Recommendations for {name}", exact=True)).to_be_visible()
    assert titles(page) != before
    assert name not in page.url
    settled(page)


def releases(page: Any, shop: Path) -> None:
    """Look at the active release, activate another one after a confirmation, and go back."""
    page.get_by_role("link", name="Releases").click()
    expect(page.get_by_role("heading", name="Index health")).to_be_visible()
    expect(page.get_by_role("rowheader")).to_have_text(["image", "text", "tower"])
    expect(page.locator("td[data-name='Values per vector']").first).to_be_visible()
    serving, other = (page.locator("ul.releases a").nth(place).inner_text() for place in (0, 1))
    expect(page.locator("#release")).to_have_text(serving)
    page.get_by_role("button", name="Activate").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.locator("#release")).to_have_text(serving)
    for next_ in (other, serving):
        row = page.locator("ul.releases li").filter(has_text=next_)
        row.get_by_role("button", name="Activate").click()
        page.get_by_role("dialog").get_by_role("button", name="Activate").click()
        expect(page.locator("#release")).to_have_text(next_)
        expect(row.locator(".badge")).to_have_text("active")
        settled(page)


def compare(page: Any, shop: Path) -> None:
    """Send the same text, then the same user, to two releases; differences are marked."""
    page.get_by_role("link", name="Compare").click()
    page.get_by_role("textbox", name="Text").fill("striped mug")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".summary")).to_contain_text("of 30 items in both")
    expect(page.locator(".ranking")).to_have_count(2)
    page.get_by_role("combobox", name="Left").select_option(index=2)  # from before anything was learned from users
    page.get_by_role("radio", name="Recommendations").check()
    page.get_by_role("combobox", name="Left").select_option(index=2)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".ranking .badge").first).to_be_visible()
    settled(page)


def operate(page: Any, shop: Path) -> None:
    """Look at the last feed, the hidden items and the activity."""
    page.get_by_role("link", name="Catalogue").click()
    expect(page.get_by_role("heading", name=f"Rejected rows ({REJECTED})")).to_be_visible()
    expect(page.locator(".tiles li")).to_have_text([f"{73 + REJECTED}read", "73kept", f"{REJECTED}rejected"])
    expect(page.get_by_role("heading", name="Items hidden by the content policy (1)")).to_be_visible()
    expect(page.get_by_text("a blocked word in its title")).to_be_visible()
    settled(page)
    page.get_by_role("link", name="Activity").click()
    expect(page.get_by_role("heading", name="Drift")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^click: 3 events"))).to_be_visible()
    settled(page)


JOURNEYS = (text_search, photo, neighbours, steer, recommend, releases, compare, operate)


@pytest.fixture(scope="module")
def acted(service: Service) -> None:
    """Three clicks just now."""
    done = [{"user_id": "now", "item_id": item, "type": "click"} for item in service.ids(text="mug", k=3)]
    good(service.client.post("/v1/events", json={"events": done}))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.__name__)
@pytest.mark.usefixtures("acted")
def test_a_journey_works_and_everybody_can_make_it(
    browser: Any,
    service: Service,
    shop: Path,
    journey: Callable[[Any, Path], None],
    size: str,
    record_property: Callable[[str, Any], None],
) -> None:
    with visit(browser, service, size) as page:
        try:
            journey(page, shop)
            barriers = serious(page)
            record_property("axe_serious", len(barriers))
            assert barriers == []
            assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
        finally:
            record_property("console_errors", len(page.wrong))
        assert page.wrong == []


def test_a_long_list_is_virtual_and_goes_by_keys(opened: Any) -> None:
    opened.goto("/#/catalogue")
    rows = opened.locator(".rows").last.locator("li")
    expect(rows.first).to_contain_text("line 75")
    assert rows.first.get_attribute("aria-setsize") == str(REJECTED)
    assert rows.count() < 40
    opened.locator(".rows").last.focus()
    opened.keyboard.press("End")
    expect(rows.last).to_have_attribute("aria-posinset", str(REJECTED))
    expect(rows.last).to_be_focused()
    expect(rows.last).to_contain_text(f"line {74 + REJECTED}")
    assert rows.count() < 40
    opened.keyboard.press("ArrowUp")
    expect(opened.locator(":focus")).to_have_attribute("aria-posinset", str(REJECTED - 1))
    opened.goto("/#/search?k=1000")
    expect(opened.locator(".found .cards li").first).to_have_attribute("aria-setsize", re.compile("7[23]"))
    assert opened.locator(".found .cards li").count() < 40


def test_a_hostile_title_stays_text(opened: Any, service: Service) -> None:
    item = {"item_id": HOSTILE, "title": HOSTILE, "description": "onerror"}
    assert good(service.client.put("/v1/items", json={"items": [item]}))["items"][0]["status"] == "created"
    opened.goto("/#/search?q=onerror")
    opened.get_by_role("link", name=HOSTILE, exact=True).click()
    expect(opened.locator("#item h2")).to_have_text(HOSTILE)
    settled(opened)
    opened.get_by_role("button", name="More like this").click()
    expect(opened.locator(".chips")).to_contain_text(HOSTILE)
    assert opened.locator("img[src=x]").count() == 0
    assert opened.wrong == []
    good(service.client.request("DELETE", "/v1/items", json={"item_ids": [HOSTILE]}))


def test_a_late_answer_does_not_replace_a_newer_one(opened: Any) -> None:
    held: list[Any] = []

    def hold(route: Any) -> None:
        late = json.loads(route.request.post_data).get("text") == "mug"
        held.append(route) if late else route.continue_()

    opened.route("**/v1/search", hold)
    opened.evaluate("location.hash = '#/search?q=mug'")
    opened.wait_for_timeout(100)
    find(opened, "sneaker")
    newer = titles(opened)
    assert len(held) == 1
    held[0].continue_()
    opened.wait_for_timeout(300)
    assert titles(opened) == newer


def test_a_failed_search_shows_the_reason(opened: Any) -> None:
    opened.goto("/#/search?q=mug&min=9&max=nothing")
    expect(opened.locator(".found h2")).to_have_text("Search failed")
    expect(opened.get_by_role("alert")).to_contain_text("filter.price.lte")


def test_the_count_is_of_items_that_match(opened: Any, service: Service) -> None:
    """A search by similarity returns k items; the heading counts those that contain the words."""
    body = {"text": "mug", "facets": ["available"], "k": 1}
    counts = good(service.client.post("/v1/search", json=body))["facets"]["available"]
    matching = sum(each["count"] for each in counts)
    opened.goto("/#/search?q=mug")
    expect(opened.locator(".found h2")).to_have_text(f"{matching} items contain the words")
    expect(opened.locator(".found header .soft")).to_contain_text(
        re.compile(r"7[23] items shown, the most similar first")
    )
    opened.goto("/#/search?q=zzqqxx")
    expect(opened.locator(".found h2")).to_have_text("No item contains these words")


def test_no_item_passes_the_filters(opened: Any) -> None:
    opened.goto("/#/search?q=mug&brand=nobody")
    expect(opened.locator(".found h2")).to_have_text("No items match")
    opened.get_by_role("link", name="Search without filters").click()
    expect(opened.locator(".found h2")).to_have_text(re.compile("items contain the words"))
    expect(opened.locator(".found .empty")).to_have_count(0)


def test_any_attribute_is_a_filter(opened: Any) -> None:
    opened.goto("/#/search?q=mug")
    settled(opened)
    group = opened.locator(".facets details.attribute").filter(has=opened.locator("summary", has_text="color"))
    group.locator("summary").click()
    value = group.locator("label span").first.inner_text()
    group.get_by_role("checkbox").first.check()
    expect(opened.get_by_role("button", name=f"Remove color {value}")).to_be_visible()
    settled(opened)
    assert "attributes.color=" in opened.url
    opened.locator(".found .whole").first.click()
    expect(opened.locator("#item dl")).to_contain_text(value)


def test_the_filters_can_be_skipped_by_keyboard(opened: Any) -> None:
    opened.goto("/#/search?q=mug")
    settled(opened)
    opened.get_by_role("button", name="Search", exact=True).focus()
    opened.keyboard.press("Tab")
    expect(opened.get_by_role("link", name="Skip filters")).to_be_focused()
    opened.keyboard.press("Enter")
    expect(opened.locator(".found .whole").first).to_be_focused()


def test_the_console_says_that_no_key_is_required(opened: Any) -> None:
    expect(opened.get_by_text("no key required")).to_be_visible()


def test_without_a_release_the_console_says_what_to_run(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with served(Settings(store=tmp_path / "store")) as running, visit(browser, running, "phone") as page:
        expect(page.get_by_role("heading", name="No release to serve")).to_be_visible()
        expect(page.get_by_role("alert")).to_contain_text("no release")
        expect(page.get_by_text("vetrina build FEED", exact=True)).to_be_visible()
        assert serious(page) == []


def test_it_works_below_a_path_prefix(browser: Any, service: Service) -> None:
    """A proxy that publishes the service at /vetrina/ and strips the prefix; any other path is its own."""
    with stripping_proxy(str(service.client.base_url)) as address:
        context = browser.new_context(viewport=SIZES["desk"])
        page = context.new_page()
        failed: list[str] = []
        page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
        page.goto(f"{address}/vetrina/")
        expect(page.locator(".found .picture img").first).to_be_visible()
        find(page, "mug")
        page.goto(f"{address}/vetrina/docs")
        expect(page.locator(".opblock").first).to_be_visible()
        context.close()
    assert failed == []


def test_the_console_of_a_prefix_needs_a_slash(store: Settings) -> None:
    """Without it, the relative addresses of its files would leave the prefix."""
    with served(store.model_copy(update={"root_path": "/vetrina"})) as running:
        response = running.client.get("/vetrina")
        assert (response.status_code, response.headers["location"]) == (307, "/vetrina/")
        assert running.client.get("/vetrina/").status_code == running.client.get("/").status_code == 200


@contextmanager
def stripping_proxy(target: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            if not self.path.startswith("/vetrina/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name: self.headers[name] for name in ("content-type", "authorization") if name in self.headers}
            response = httpx.request(
                self.command, target + self.path.removeprefix("/vetrina"), content=body, headers=headers, timeout=30
            )
            self.send_response(response.status_code)
            self.send_header("content-type", response.headers["content-type"])
            self.send_header("content-length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        do_GET = do_POST = forward  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_key_is_asked_for_once_and_kept_out_of_addresses(browser: Any, service: Service, store: Settings) -> None:
    secret = create_key(store.store, "console", ["query"])
    try:
        with visit(browser, service, "desk") as page:
            expect(page.get_by_role("dialog", name="API key required")).to_be_visible()
            page.get_by_role("textbox", name="Key").fill("vt_wrong")
            page.keyboard.press("Enter")
            expect(page.get_by_text("The service does not accept this key")).to_be_visible()
            page.get_by_role("textbox", name="Key").fill(secret)
            page.keyboard.press("Enter")
            expect(page.locator(".found .picture img").first).to_be_visible()
            page.get_by_role("link", name="Releases").click()
            expect(page.get_by_role("alert")).to_have_text("This view needs a key with the scope admin.")
            page.reload()
            page.goto("/#/search")
            find(page, "mug")
            assert secret not in page.url
            assert page.evaluate("localStorage.length") == 0
            page.get_by_role("link", name="Releases").click()
            page.get_by_role("button", name="Use another key").click()
            expect(page.get_by_role("dialog", name="API key required")).to_be_visible()
    finally:
        revoke_key(store.store, "console")
