"""The page in a real browser: headless Chromium, driven by Playwright. Skipped where either is not installed."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from threading import Event, Timer
from typing import Any

import numpy as np
import pytest
from fake_session import FakeSession, boxes_at

from stream_detr.structures import Line, Zone
from stream_detr.web import served

playwright = pytest.importorskip("playwright.async_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]
SIZE = (640, 360)
DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
TOKEN = "a-token-of-the-tests"
HANGS_SECONDS = 45

Visit = Callable[["Browser"], Awaitable[None]]


class Browser:
    """Chromium, the session that it shows, and every complaint of the pages."""

    def __init__(self, chromium: Any, session: FakeSession, url: str) -> None:
        self.chromium, self.session, self.url = chromium, session, url
        self.complaints: list[str] = []

    async def open(self, viewport: dict[str, int] = DESKTOP, url: str | None = None, **settings: Any) -> Any:
        context = await self.chromium.new_context(viewport=viewport, **settings)
        page = await context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda said: self.complaints.append(said.text) if _is_complaint(said) else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        await page.goto(url or self.url)
        return page

    async def open_live(self, viewport: dict[str, int] = DESKTOP, **settings: Any) -> Any:
        """A page that shows pictures."""
        page = await self.open(viewport, **settings)
        await holds(page, "() => document.querySelectorAll('#list li').length === 3")
        return page


def _is_complaint(said: Any) -> bool:
    return said.type in ("error", "warning") and "willReadFrequently" not in said.text  # that one is about these tests


def browse(
    visit: Visit,
    *,
    num_streams: int = 1,
    complaints: int | None = 0,
    prepare: Callable[[FakeSession], None] = lambda session: None,
    **settings: Any,
) -> FakeSession:
    """``visit`` the page of a running fake session; what the console says fails the test.

    Headless Chromium hangs now and then before it shows anything. It is killed then, and the visit made once more.
    """
    try:
        return _browse(visit, num_streams, complaints, prepare, settings)
    except BrowserHangs:
        return _browse(visit, num_streams, complaints, prepare, settings)


class BrowserHangs(Exception):
    """It had to be killed."""


def _browse(
    visit: Visit,
    num_streams: int,
    complaints: int | None,
    prepare: Callable[[FakeSession], None],
    settings: dict[str, Any],
) -> FakeSession:
    session = FakeSession(num_streams, SIZE)
    prepare(session)
    session.step()
    session.run(20)

    async def go() -> None:
        async with (
            served(session, **settings) as url,
            playwright.async_playwright() as driver,
        ):
            chromium = await driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, mark])
            browser = Browser(chromium, session, url)
            await visit(browser)
            await chromium.close()
            assert complaints is None or browser.complaints == []

    mark = f"--of-test={os.getpid()}-{time.monotonic_ns()}"
    is_killed = Event()

    def kill() -> None:
        is_killed.set()
        subprocess.run(["pkill", "-KILL", "-f", f"of-test={mark.partition('=')[2]}"], check=False)

    watchdog = Timer(HANGS_SECONDS, kill)
    watchdog.start()
    try:
        asyncio.run(go())
    except Exception as error:
        if is_killed.is_set():
            raise BrowserHangs from error
        raise
    finally:
        watchdog.cancel()
        session.close()
    return session


async def holds(page: Any, script: str, arg: object = None) -> None:
    """Wait until a JavaScript function is true; Playwright's own waiting needs eval, which the page forbids."""
    async with asyncio.timeout(20):
        while not await page.evaluate(script, arg):
            await asyncio.sleep(0.05)


async def click(page: Any, x: float, y: float, **settings: Any) -> None:
    """Click the picture at fractions of the frame, the whole of which is shown."""
    area = await page.locator("#picture").bounding_box()
    scale = min(area["width"] / SIZE[0], area["height"] / SIZE[1])
    at = {
        "x": area["width"] / 2 + (x - 0.5) * SIZE[0] * scale,
        "y": area["height"] / 2 + (y - 0.5) * SIZE[1] * scale,
    }
    await page.locator("#picture").click(position=at, **settings)


async def pixels(page: Any, selector: str = "#picture") -> str:
    """What a canvas shows, to compare with another time."""
    shown: str = await page.evaluate("(s) => document.querySelector(s).toDataURL()", selector)
    return shown


async def at_rest(page: Any) -> str:
    """What the picture shows once it has stopped moving; the stream is paused."""
    shown, before = await pixels(page), ""
    while shown != before:
        await asyncio.sleep(0.15)
        shown, before = await pixels(page), shown
    return shown


async def color_at(page: Any, x: float, y: float) -> list[int]:
    """Colour of the picture's canvas at fractions of the frame, the whole of which is shown."""
    color: list[int] = await page.evaluate(
        """([x, y, w, h]) => {
            const c = document.getElementById("picture"), scale = Math.min(c.width / w, c.height / h);
            const at = [c.width / 2 + (x - 0.5) * w * scale, c.height / 2 + (y - 0.5) * h * scale];
            return [...c.getContext("2d").getImageData(...at, 1, 1).data].slice(0, 3);
        }""",
        [x, y, *SIZE],
    )
    return color


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something to happen in the session."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def test_the_page_shows_a_picture_that_moves_and_its_objects() -> None:
    async def visit(browser: Browser) -> None:
        page = await browser.open_live()
        assert await page.locator("#list b").all_inner_texts() == ["person", "car", "traffic light"]
        assert "30" in await page.locator("#figures").inner_text()
        before = await pixels(page)
        await holds(page, "(was) => document.getElementById('picture').toDataURL() !== was", arg=before)

    browse(visit)


def test_a_click_on_an_object_leaves_its_attention_alone_and_larger() -> None:
    async def visit(browser: Browser) -> None:
        browser.session.pause(0, True)
        page = await browser.open_live()
        shown = browser.session.newest(0)
        assert shown is not None
        x0, y0, x1, y1 = boxes_at(shown.number, 1, 1)[1].tolist()
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        before = await at_rest(page)
        left_part, left_of_it = np.array(await color_at(page, x - 0.1, y)), np.array(await color_at(page, 0.3, 0.5))
        assert np.abs(left_part - left_of_it).max() > 40
        await click(page, x, y)
        await page.wait_for_selector("#focus:visible")
        assert await page.locator("#focus b").inner_text() == "car #2"
        assert await page.locator("#list [aria-pressed=true] b").all_inner_texts() == ["car"]
        await at_rest(page)
        # It is in the middle now and twice as large, its attention a little stronger, the others' gone.
        assert np.abs(np.array(await color_at(page, 0.3, 0.5)) - left_part).max() < 25
        await page.keyboard.press("Escape")
        await page.wait_for_selector("#focus", state="hidden")
        await page.mouse.move(1, 1)
        assert await at_rest(page) == before
        # The list does the same, and a second click there leaves.
        row = page.locator("#list button").nth(0)
        await row.click()
        assert await page.locator("#focus b").inner_text() == "person #1"
        await row.click()
        await page.wait_for_selector("#focus", state="hidden")

    browse(visit)


def test_a_click_elsewhere_shows_that_points_attention_and_its_direction_turns() -> None:
    async def visit(browser: Browser) -> None:
        page = await browser.open_live()
        await click(page, 0.05, 0.85)
        await until(lambda: any(call[0] == "points" for call in browser.session.calls))
        stream_id, points = browser.session.calls[-1][1:]
        assert (stream_id, points) == (0, (pytest.approx((0.05, 0.85), abs=0.01),))
        await holds(page, "() => document.querySelector('#focus .what').textContent === ''")
        # Amber where the point is, bluish grey before.
        await holds(
            page,
            """() => {
                const c = document.getElementById("picture"), scale = Math.min(c.width / 640, c.height / 360);
                const at = [c.width / 2 - 0.42 * 640 * scale, c.height / 2 + 0.3 * 360 * scale];
                const [r, g, b] = c.getContext("2d").getImageData(...at, 1, 1).data;
                return r > b + 40;
            }""",
        )
        await page.locator("#focus .flip").click()
        await until(lambda: browser.session.settings.direction == "looked-at-by")
        await page.wait_for_selector("text=what looks at the point")
        await page.keyboard.press("ArrowUp")
        await until(lambda: browser.session.calls[-1][2:] == ((pytest.approx((0.05, 0.83), abs=0.01),),))
        await click(page, 0.95, 0.9, modifiers=["Shift"])
        await page.wait_for_selector("text=2 points")
        await page.keyboard.press("Escape")
        await until(lambda: browser.session.calls[-1] == ("points", 0, ()))

    browse(visit)


def test_shared_controls_change_the_session_and_both_viewers() -> None:
    async def visit(browser: Browser) -> None:
        one, other = await browser.open_live(), await browser.open_live()
        await one.get_by_role("radio", name="Links").click()
        await until(lambda: browser.session.settings.attention == "objects")
        await other.wait_for_selector("#kinds [data-value=objects][aria-checked=true]")
        assert await one.locator("#layers button").all_inner_texts() == ["1", "2", "3", "4", "5", "last"]
        await one.locator("#layers [aria-checked=true]:has-text('last')").wait_for()
        await one.locator("#layers button").nth(1).click()
        await one.locator("#heads button", has_text="max").click()
        await until(lambda: (browser.session.settings.layer, browser.session.settings.head) == (1, "max"))
        await other.wait_for_selector("#heads [data-value=max][aria-checked=true]")
        await one.locator("#layers button", has_text="last").click()
        await until(lambda: browser.session.settings.layer == -1)
        await other.wait_for_selector("#layers [aria-checked=true]:has-text('last')")
        await other.keyboard.press("Space")
        await one.wait_for_selector("#pause[aria-pressed=true]")
        await other.keyboard.press("r")
        await one.wait_for_selector("text=Stop recording")
        assert {"2"} <= set(await one.locator("#rates dd").all_inner_texts())

    session = browse(visit)
    assert ("pause", 0, True) in session.calls
    assert ("record", 0, True) in session.calls


def test_a_viewers_own_controls_stay_with_it() -> None:
    async def visit(browser: Browser) -> None:
        one, other = await browser.open_live(), await browser.open_live()
        await one.locator("#threshold").fill("0.7")
        await holds(one, "() => document.querySelectorAll('#list li').length === 2")
        await one.locator("summary").click()
        await one.locator("#search").fill("bo")
        assert await one.locator("#choices label:visible").all_inner_texts() == ["<b>bold</b>"]
        await one.locator("#search").fill("")
        await one.locator("#choices label", has_text="car").click()
        await holds(one, "() => document.querySelectorAll('#list li').length === 1")
        assert await one.locator("#list b").all_inner_texts() == ["car"]
        assert await other.locator("#list li").count() == 3
        before = browser.session.calls.copy()
        await one.keyboard.press("Escape")
        assert browser.session.calls == before

    browse(visit)


def test_the_page_begins_with_what_was_configured() -> None:
    def prepare(session: FakeSession) -> None:
        session.settings = replace(session.settings, attention="encoder")
        session.points, session.alpha = ((0.2, 0.3), (0.7, 0.8)), 0.33
        session.zones = (Zone("corner", ((0.02, 0.6), (0.2, 0.6), (0.2, 0.98), (0.02, 0.98))),)
        session.lines = (Line("gate", (0.85, 0.95), (0.98, 0.95)),)

    async def visit(browser: Browser) -> None:
        page = await browser.open_live()
        await page.wait_for_selector("#focus:has-text('2 points')")
        await until(lambda: ("points", 0, browser.session.points) in browser.session.calls)
        assert await page.locator("#focus .leave").is_hidden()
        assert await page.locator("label:has(#opacity) output").inner_text() == "33 %"
        for x, y in ((0.02, 0.75), (0.88, 0.95)):
            near = [await color_at(page, x + away, y + away) for away in np.linspace(-0.006, 0.006, 9)]
            assert max(min(color) for color in near) > 150
        await click(page, 0.05, 0.85)
        await page.wait_for_selector("#focus:has-text('Point')")
        await page.keyboard.press("Escape")
        await page.wait_for_selector("#focus:has-text('2 points')")

    browse(visit, prepare=prepare)


def test_long_names_of_streams_and_stages_keep_their_place() -> None:
    names = [
        "/a/long/path/to/the/film.mp4",
        "rtsp://a-camera-with-a-long-name.example:8554/street/north?key=…",
        "cam 2",
    ]

    def prepare(session: FakeSession) -> None:
        for stream, name in zip(session.streams, names, strict=True):
            stream.name = name
            stream.latency_ms = {"a stage with a long name": 1234.0, "shown": 71.0}

    async def visit(browser: Browser) -> None:
        page = await browser.open_live()
        tabs = page.locator("#streams button")
        assert await tabs.all_inner_texts() == ["film.mp4", "…example:8554/street/north", "cam 2"]
        for index, name in enumerate(names):
            assert name in await tabs.nth(index).get_attribute("title")
        await page.wait_for_selector("#stages:has-text('a stage with a long name')")
        too_narrow = await page.evaluate(
            "() => [...document.querySelectorAll('#stages span, #stages output, #heads button, #layers button')]"
            ".filter((e) => e.scrollWidth > e.clientWidth || e.offsetHeight > 30).map((e) => e.textContent)"
        )
        assert too_narrow == []

    browse(visit, num_streams=3, prepare=prepare)


def test_the_grid_shows_every_stream_and_opens_one() -> None:
    async def visit(browser: Browser) -> None:
        page = await browser.open_live()
        await page.keyboard.press("g")
        assert await page.locator("#tiles > button:visible").count() == 3
        for number in (1, 2, 3):
            before = await pixels(page, f"#tiles button:nth-child({number}) canvas")
            await holds(
                page,
                "([s, was]) => document.querySelector(s).toDataURL() !== was",
                arg=[f"#tiles button:nth-child({number}) canvas", before],
            )
        await page.locator("#tiles > button").nth(2).click()
        await page.wait_for_selector("#streams [aria-current=true]:has-text('fake 2')")
        await holds(page, "() => document.querySelectorAll('#list li').length === 3")
        assert page.url.endswith("#2")

    browse(visit, num_streams=3)


def test_a_lost_stream_says_so_and_comes_back() -> None:
    async def visit(browser: Browser) -> None:
        page = await browser.open_live()
        stream = browser.session.streams[0]
        stream.status = replace(stream.status, state="lost", message="rtsp://cam: <i>no</i> answer")
        await page.wait_for_selector("#notice:has-text('Lost')")
        assert "<i>no</i> answer" in await page.locator("#notice").inner_text()
        stream.status = replace(stream.status, state="live")
        await page.wait_for_selector("#notice", state="hidden")

    browse(visit)


def test_a_snapshot_is_saved() -> None:
    async def visit(browser: Browser) -> None:
        page = await browser.open_live()
        async with page.expect_download() as saved:
            await page.keyboard.press("s")
        download = await saved.value
        assert download.suggested_filename.endswith(".png")
        assert (await asyncio.to_thread((await download.path()).read_bytes)).startswith(b"\x89PNG")

    browse(visit)


def test_the_browsers_camera_becomes_a_stream() -> None:
    async def visit(browser: Browser) -> None:
        page = await browser.open_live()
        await page.get_by_role("button", name="Use my camera").click()
        await page.wait_for_selector("#streams [aria-current=true]:has-text('fake_device')")
        await until(lambda: len(browser.session.pushed) > 5)
        stream_id, image = browser.session.pushed[-1]
        assert (stream_id, image.shape[2]) == (1, 3)
        # Chromium's fake camera is green.
        assert image[..., 1].mean() > image[..., 2].mean() + 20
        await holds(page, "() => document.querySelectorAll('#list li').length === 3")
        await page.get_by_role("button", name="Stop my camera").click()
        await until(lambda: len(browser.session.streams) == 1)

    session = browse(visit)
    assert ("remove", 1) in session.calls


def test_a_wrong_token_is_refused_and_the_right_one_leaves_the_address() -> None:
    async def visit(browser: Browser) -> None:
        plain = browser.url.partition("?")[0]
        refused = await browser.open(url=f"{plain}?token=wrong")
        assert "401" in await refused.locator("body").inner_text()
        page = await browser.open_live()
        assert "token" not in page.url
        assert await page.evaluate("document.cookie") == ""
        await page.reload()
        await holds(page, "() => document.querySelectorAll('#list li').length === 3")

    browse(visit, complaints=None, token=TOKEN)


@pytest.mark.parametrize("viewport", [PHONE, {"width": 844, "height": 390}], ids=["upright", "on its side"])
def test_a_phone_shows_all_without_scrolling_sideways(viewport: dict[str, int]) -> None:
    async def visit(browser: Browser) -> None:
        page = await browser.open_live(viewport, is_mobile=True, has_touch=True, device_scale_factor=2)
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width == viewport["width"]
        area = await page.locator("#picture").bounding_box()
        assert area["width"] * area["height"] > 0.35 * viewport["width"] * viewport["height"]
        if viewport is PHONE:
            await page.get_by_role("tab", name="Attention").tap()
        await page.locator("#kinds [data-value=none]").tap()
        await until(lambda: browser.session.settings.attention == "none")
        if viewport is PHONE:
            await page.locator("#handle").tap()
            await holds(
                page, "(was) => document.getElementById('picture').clientHeight > was + 200", arg=area["height"]
            )

    browse(visit)


def test_every_control_has_a_name_and_help_opens_by_key() -> None:
    async def visit(browser: Browser) -> None:
        page = await browser.open_live()
        nameless = await page.evaluate(
            """() => [...document.querySelectorAll("button, input")].filter((e) =>
                !(e.textContent || e.getAttribute("aria-label") || e.title || e.hidden || e.closest("label"))
            ).map((e) => e.outerHTML)"""
        )
        assert nameless == []
        await page.keyboard.press("?")
        await page.wait_for_selector("dialog[open]")
        await page.keyboard.press("Escape")
        await page.wait_for_selector("dialog", state="hidden")

    browse(visit)


def test_the_page_comes_back_when_the_server_does() -> None:
    session = FakeSession(1, SIZE)
    session.step()
    session.run(20)

    async def go() -> None:
        async with asyncio.timeout(60), playwright.async_playwright() as driver:
            chromium = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = await (await chromium.new_context()).new_page()
            async with served(session) as url:
                await page.goto(url)
                await holds(page, "() => document.querySelectorAll('#list li').length === 3")
            await page.wait_for_selector("text=Not connected")
            async with served(session, port=int(url.rstrip("/").rpartition(":")[2])):
                await page.wait_for_selector("#notice", state="hidden")
            await chromium.close()

    try:
        asyncio.run(go())
    finally:
        session.close()


def test_where_no_socket_comes_through_the_page_shows_the_mjpeg_stream() -> None:
    blocked = """
        window.numClosed = 0;
        window.WebSocket = class {
            readyState = 3;
            constructor() { setTimeout(() => { this.onclose({}); window.numClosed += 1; }, 0); }
        };
    """

    async def visit(browser: Browser) -> None:
        page = await (await browser.chromium.new_context()).new_page()
        await page.add_init_script(blocked)
        await page.goto(browser.url)
        await holds(page, "() => document.querySelector('img.fallback')?.naturalWidth === 640")
        await holds(page, "() => window.numClosed > 3")  # it goes on trying
        assert await page.locator("#notice").is_hidden()

    browse(visit)
