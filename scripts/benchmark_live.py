"""Figures of the live session with the embedded model: run one at a time, with nothing else running.

    python scripts/benchmark_live.py age [--minutes 5]       # age of the shown picture, model four times too slow
    python scripts/benchmark_live.py restarts [--times 20]   # RTSP server killed and started again: pick-up, leaks
    python scripts/benchmark_live.py stalled                 # one of four RTSP servers is stopped
    python scripts/benchmark_live.py view [--minutes 0.5]    # a 640x480 camera at 30 fps in headless Chromium
    python scripts/benchmark_live.py soak [--frames 20000]   # memory, with viewers that come and go

``restarts`` and ``stalled`` need GStreamer's RTSP server, ``view`` Chromium and playwright; .ci/run installs all.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from rtsp_server import RtspServer

from stream_detr.capture import Capture
from stream_detr.config import load_config
from stream_detr.detector import Detector
from stream_detr.live import LiveSession
from stream_detr.pipeline import load_detector
from stream_detr.sources.live import LiveOptions, find_streams
from stream_detr.web.server import served

CAMERA = "pattern:640x480@30"
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
FEW_SECONDS = LiveOptions(timeout_seconds=(2.0, 2.0))


def session_of(sources: Sequence[str], options: LiveOptions = FEW_SECONDS) -> LiveSession:
    """A running session."""
    config = load_config(flags={"model": "tiny", "device": "cpu"})

    def opened(given: object, notify: Callable[[], None]) -> Capture:
        return Capture(given, options, notify)  # type: ignore[arg-type]

    return LiveSession(find_streams(sources), load_detector(config), config, open_capture=opened)


def resident_mib() -> float:
    """Memory that this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def held() -> str:
    """Threads, descriptors and memory of this process."""
    threads, files = (len(os.listdir(f"/proc/self/{what}")) for what in ("task", "fd"))
    return f"{threads} threads, {files} descriptors, {resident_mib():.0f} MiB"


def age(minutes: float) -> None:
    """Age of each picture when it is shown, a minute at a time; the model takes four of the camera's frames."""
    plain = Detector.__call__
    inference: list[float] = []

    def slow(self: Detector, frames: Sequence[object]) -> object:
        started = time.monotonic()
        found = plain(self, frames)  # type: ignore[arg-type]
        time.sleep(max(0.0, 4 / 30 - (time.monotonic() - started)))
        inference.append(time.monotonic() - started)
        return found

    Detector.__call__ = slow  # type: ignore[assignment, method-assign]
    ages: list[float] = []
    with session_of([CAMERA]) as session:

        def shown(stream_id: int) -> None:
            picture = session.newest(stream_id)
            if picture is not None:
                ages.append(picture.shown_seconds - picture.frame.captured_seconds)

        session.subscribe(shown)
        session.wait(5)
        for minute in range(round(minutes)):
            ages.clear()
            session.wait(60)
            now = np.array(ages) * 1000
            print(
                f"minute {minute + 1}: {len(now) / 60:.1f} shown fps, age p50 {np.percentile(now, 50):.1f} ms, "
                f"p95 {np.percentile(now, 95):.1f}, max {now.max():.1f}; "
                f"inference p50 {1000 * statistics.median(inference[-300:]):.0f} ms",
                flush=True,
            )
    Detector.__call__ = plain  # type: ignore[method-assign]


def until(condition: Callable[[], bool], seconds: float = 60) -> float:
    """Seconds until a condition holds."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise TimeoutError("it never came")
        time.sleep(0.01)
    return time.monotonic() - started


def restarts(times: int) -> None:
    """How long after it listens again a restarted server's stream is live, and what is left behind."""
    took = []
    with RtspServer((320, 240)) as server, session_of([server.uri]) as session:
        stream = session.streams[0]
        until(lambda: stream.status.state == "live")
        session.wait(3)
        print(f"before: {held()}", flush=True)
        for number in range(times):
            server.kill()
            until(lambda: stream.status.state == "lost")
            time.sleep(number % 4)  # also after a pause that has grown
            server.start((320, 240) if number % 2 else (480, 360))
            took.append(until(lambda: stream.status.state == "live"))
            if number == 1:
                print(f"after the second: {held()}", flush=True)
        session.wait(2)
        print(f"after {times}: {held()}; reconnects {stream.status.reconnects}")
    print(f"live again after at most {max(took):.2f} s, median {statistics.median(took):.2f}")


def stalled() -> None:
    """Shown frames of three streams while the fourth is well, and while it is stopped."""
    with ExitStack() as stack:
        servers = [stack.enter_context(RtspServer((320, 240))) for _ in range(4)]
        session = stack.enter_context(session_of([server.uri for server in servers]))
        until(lambda: all(stream.status.state == "live" for stream in session.streams))
        counts = []
        for is_stalled in (False, True, False):
            servers[3].stall() if is_stalled else servers[3].go_on()
            session.wait(8)
            before = [session.newest(i) for i in range(3)]
            session.wait(20)
            after = [session.newest(i) for i in range(3)]
            counts.append([b.number - a.number for a, b in zip(before, after, strict=True) if a and b])
            state = session.streams[3].status.state
            print(
                f"stalled {is_stalled}: {[f'{n / 20:.1f}' for n in counts[-1]]} shown fps, fourth: {state}", flush=True
            )
    shares = [during / ((first + last) / 2) for first, during, last in zip(*counts, strict=True)]
    print("while the fourth is stopped the others keep " + ", ".join(f"{share:.1%}" for share in shares))


async def _view(seconds: float) -> None:
    from playwright.async_api import async_playwright

    with session_of([CAMERA]) as session:
        async with served(session) as url, async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_FLAGS))
            page = await browser.new_page(viewport={"width": 1400, "height": 900})
            latencies: list[float] = []
            numbers: list[int] = []

            def arrived(socket: object) -> None:
                socket.on("framereceived", lambda data: _note(data, latencies, numbers))  # type: ignore[attr-defined]

            page.on("websocket", arrived)
            await page.goto(url)
            await asyncio.sleep(5)
            latencies.clear()
            numbers.clear()
            told: list[list[str]] = []
            until_then = time.monotonic() + seconds
            while time.monotonic() < until_then:
                await asyncio.sleep(1)
                told.append(await page.locator("header strong, header b").all_inner_texts())
            print(f"pictures received: {len(numbers) / seconds:.1f} a second")
            print(f"camera to page, as the server stamped them: p50 {np.percentile(latencies, 50):.1f} ms")
            print("the page's own figures (shown fps, detected fps, delay in ms), last five seconds:", told[-5:])
            await browser.close()
        print("session:", session.report()["streams"][0]["latency_ms"])


def _note(data: object, latencies: list[float], numbers: list[int]) -> None:
    if isinstance(data, bytes):
        header = json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])
        latencies.append(header["age_ms"])
        numbers.append(header["number"])


async def _viewer(url: str, seconds: float) -> int:
    """Watch for a while like the page does; the number of pictures."""
    seen, end = 0, time.monotonic() + seconds
    async with aiohttp.ClientSession() as client, client.ws_connect(f"{url}socket", origin=url.rstrip("/")) as socket:
        await socket.send_json({"do": "watch", "streams": [0], "size": 960})
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                header = json.loads(message.data[4 : 4 + int.from_bytes(message.data[:4], "little")])
                await socket.send_json({"do": "ack", "stream": header["stream"], "number": header["number"]})
                seen += 1
            if time.monotonic() > end:
                break
    return seen


async def _soak(frames: int) -> None:
    with session_of([CAMERA]) as session:
        async with served(session) as url:
            stream, warm = session.streams[0], 0.0
            for turn in itertools.count():
                seen = await asyncio.gather(*(_viewer(url, 5 + 3 * each) for each in range(1 + turn % 3)))
                read = stream.status.frames_read
                if not warm and read >= frames / 10:
                    warm = resident_mib()
                    print(f"warm: {held()}", flush=True)
                if turn % 10 == 0:
                    print(f"frame {read}: {held()}, viewers got {seen}, {session.report()['streams'][0]}", flush=True)
                if read >= frames:
                    break
        change = resident_mib() / warm - 1
        print(f"frame {stream.status.frames_read}: {held()}, {change:+.1%} since warm, state {stream.status.state}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("age", "restarts", "stalled", "view", "soak"))
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--frames", type=int, default=20_000)
    args = parser.parse_args()
    if args.what == "age":
        age(args.minutes or 5)
    elif args.what == "restarts":
        restarts(args.times)
    elif args.what == "stalled":
        stalled()
    elif args.what == "view":
        asyncio.run(_view(60 * (args.minutes or 0.5)))
    else:
        asyncio.run(_soak(args.frames))


if __name__ == "__main__":
    main()
