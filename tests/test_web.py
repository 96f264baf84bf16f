"""The live view's server: who is let in, what viewers get, and what clients can't do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from fake_session import FakeSession
from test_live import rig

from stream_detr.errors import SinkError, SourceError, UsageError
from stream_detr.overlay.heat import strength_of
from stream_detr.sinks.jpeg import encode_jpeg
from stream_detr.sources.jpeg import decode_jpeg, jpeg_size_hw
from stream_detr.structures import Line, Zone
from stream_detr.web import audience, is_loopback, new_token, open_browser, served
from stream_detr.web.access import Access
from stream_detr.web.limits import Limits
from stream_detr.web.messages import picture_message

TOKEN = "a-token-of-the-tests"
ROUTES = ["/", "/app.js", "/style.css", "/state", "/socket", "/snapshot/0.png", "/stream/0.mjpeg", "/nothing"]

Visit = Callable[[FakeSession, aiohttp.ClientSession, str], Awaitable[None]]


def run(visit: Visit, *, num_streams: int = 1, size: tuple[int, int] = (64, 48), **settings: Any) -> FakeSession:
    """``visit`` a server that shows a fake session with one picture."""
    session = FakeSession(num_streams, size)
    session.step()

    async def go() -> None:
        async with asyncio.timeout(30), served(session, **settings) as url, aiohttp.ClientSession() as client:
            await visit(session, client, url.partition("?")[0].rstrip("/"))

    asyncio.run(go())
    assert session.num_listeners == 0
    return session


def joined(client: aiohttp.ClientSession, url: str, **settings: Any) -> Any:
    return client.ws_connect(f"{url}/socket", origin=url, max_msg_size=0, **settings)


async def text(viewer: Any, kind: str) -> Any:
    """The next text message with ``kind`` in it; pictures and others are passed over."""
    while True:
        message = await viewer.receive(10)
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        if message.type is aiohttp.WSMsgType.TEXT and kind in (found := json.loads(message.data)):
            return found[kind]


async def picture(viewer: Any) -> tuple[dict[str, Any], bytes, bytes]:
    """Header, JPEG and grids of the next picture."""
    while (message := await viewer.receive(10)).type is aiohttp.WSMsgType.TEXT:
        pass
    assert message.type is aiohttp.WSMsgType.BINARY, message
    start = 4 + int.from_bytes(message.data[:4], "little")
    header = json.loads(message.data[4:start])
    return header, message.data[start : start + header["jpeg"]], message.data[start + header["jpeg"] :]


async def closed(viewer: Any) -> int | None:
    """Close code, once the server has hung up."""
    while (await viewer.receive(10)).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
        pass
    code: int | None = viewer.close_code
    return code


def ack(header: dict[str, Any]) -> dict[str, Any]:
    return {"do": "ack", "stream": header["stream"], "number": header["number"]}


WATCH = {"do": "watch", "streams": [0], "size": 480}


# Who is let in


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("query", ["", "?token=wrong", "?token=", "?token=a-token-of-the-test", "?token=%ff"])
def test_every_route_refuses_without_the_token(path: str, query: str) -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with client.get(f"{url}{path}{query}", headers={"Origin": url}) as answer:
            assert answer.status == 401
            assert (await answer.text()).count("\n") == 1
            assert "Set-Cookie" not in answer.headers

    run(visit, token=TOKEN)


def test_the_token_becomes_a_cookie_that_opens_every_route() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with client.get(f"{url}/?token={TOKEN}") as answer:
            assert answer.status == 200
            cookie = answer.headers["Set-Cookie"]
        value = cookie.partition(";")[0]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        for path in ("/", "/app.js", "/state"):
            async with client.get(f"{url}{path}", headers={"Cookie": value}) as answer:
                assert answer.status == 200
        async with joined(client, url, headers={"Cookie": value}) as viewer:
            assert (await text(viewer, "hello"))["model"] == "fake"
        async with client.get(f"{url}/state", headers={"Cookie": value + "x"}) as answer:
            assert answer.status == 401

    run(visit, token=TOKEN)


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", ""])
def test_a_socket_from_another_origin_is_refused(origin: str) -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await client.ws_connect(f"{url}/socket", origin=origin or None)
        async with client.post(f"{url}/state", headers={"Origin": origin}) as answer:
            assert answer.status == 403

    run(visit)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "a@127.0.0.1", ""])
def test_a_host_name_that_is_not_this_machines_is_refused(host: str) -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with client.get(f"{url}/state", headers={"Host": host}) as answer:
            assert answer.status in (400, 403)

    run(visit)


def test_a_host_name_given_for_a_proxy_is_served() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with client.get(f"{url}/state", headers={"Host": "cams.example"}) as answer:
            assert answer.status == 200

    run(visit, names=["cams.example"])


def test_another_sites_page_cannot_embed_anything_but_may_link_here() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        for mode, status in (("no-cors", 403), ("navigate", 200)):
            headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode}
            async with client.get(f"{url}/snapshot/0.png", headers=headers) as answer:
                assert answer.status == status

    run(visit)


def test_every_answer_tells_the_browser_to_be_strict() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        for path in ("/", "/nothing", "/snapshot/9.png", "/snapshot/-1.png", "/app.js"):
            async with client.get(url + path) as answer:
                assert answer.status == (200 if path in ("/", "/app.js") else 404)
                assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert "aiohttp" not in answer.headers["Server"]

    run(visit)


def test_the_page_holds_nothing_from_elsewhere() -> None:
    page = Path(sys.modules["stream_detr.web.server"].__file__ or "").parent / "page"
    for path in page.iterdir():
        held = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"\b(https?|wss?):?//|\bimport .*//|url\(", held), path
        assert "innerHTML" not in held, path
        assert "insertAdjacentHTML" not in held, path


def test_an_open_address_needs_a_good_token() -> None:
    with pytest.raises(UsageError, match="token"):
        Access("0.0.0.0", None)
    with pytest.raises(UsageError, match="12 characters"):
        Access("127.0.0.1", "short")
    assert Access("0.0.0.0", new_token()).is_token("") is False
    assert new_token() != new_token()
    assert not is_loopback("::")


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        async def visit(*_: object) -> None: ...

        with pytest.raises(UsageError, match=r"port \d+ .*choose another"):
            run(visit, port=taken.getsockname()[1])


def test_no_browser_is_opened_without_a_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    assert not open_browser("x")
    monkeypatch.setenv("DISPLAY", ":0")
    assert open_browser("x")
    monkeypatch.setenv("SSH_CONNECTION", "far away")
    assert not open_browser("x")
    assert opened == ["x"]


# Pictures


def test_a_picture_comes_with_its_objects_and_their_attention() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            hello = await text(viewer, "hello")
            assert (hello["layers"], hello["heads"], hello["scale"]) == (6, 8, {"clear_at": 2, "full_at": 16})
            await viewer.send_json(WATCH)
            header, jpeg, grids = await picture(viewer)
        assert (header["stream"], header["number"], header["width"], header["height"]) == (0, 0, 640, 384)
        assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (288, 480, 3)
        assert [found["class"] for found in header["objects"]] == ["person", "car", "traffic light"]
        assert [found["track"] for found in header["objects"]] == [1, 2, 3]
        grid = header["grid"]
        assert (grid["rows"], grid["columns"], grid["stride"], grid["model_hw"]) == (12, 20, 32, [384, 640])
        maps = np.frombuffer(grids, np.uint8).reshape(3, 12, 20)
        x0, y0, x1, y1 = header["objects"][1]["box"]
        row, column = np.unravel_index(maps[1].argmax(), maps[1].shape)
        assert x0 < 32 * column + 16 < x1
        assert y0 < 32 * row + 16 < y1

    run(visit, size=(640, 384))


def test_each_objects_own_scale_is_used_where_it_was_tracked() -> None:
    session = FakeSession()
    session.step()
    shown = session.newest(0)
    assert shown is not None
    attention = shown.detections.attention
    assert attention is not None
    assert attention.cross is not None
    full_at = attention.cross.max((1, 2)) * np.array([1, 2, 0.5], np.float32)
    found = replace(shown.detections, attention=replace(attention, full_at=full_at))
    message = picture_message(replace(shown, detections=found), b"")
    maps = np.frombuffer(message[4 + int.from_bytes(message[:4], "little") :], np.uint8)
    assert (maps.reshape(attention.cross.shape) == np.rint(255 * strength_of(attention.cross, "cross", full_at))).all()
    assert maps.reshape(3, -1).max(1)[1] < 255


def test_nothing_is_encoded_when_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr("stream_detr.web.pictures.encode_jpeg", lambda *_: made.append(1) or b"jpeg")

    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            await text(viewer, "state")
            session.step()
            await text(viewer, "state")
            assert not made
            assert not session.asked
            await viewer.send_json(WATCH)
            await picture(viewer)
            assert made

    run(visit)


def test_a_picture_is_encoded_once_for_all_who_watch_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr("stream_detr.web.pictures.encode_jpeg", lambda *_: made.append(1) or b"jpeg")

    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        viewers = [await joined(client, url) for _ in range(3)]
        for viewer in viewers:
            await viewer.send_json(WATCH)
        headers = [(await picture(viewer))[0] for viewer in viewers]
        assert [header["number"] for header in headers] == [0, 0, 0]
        assert len(made) == 1
        for viewer in viewers:
            await viewer.close()

    run(visit)


def test_each_viewer_sees_the_streams_it_chose() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as one, joined(client, url) as all_of_them:
            await one.send_json({"do": "watch", "streams": [1], "size": 960})
            await all_of_them.send_json({"do": "watch", "streams": [0, 1, 2], "size": 480})
            seen = set()
            for _ in range(3):
                header, _, _ = await picture(all_of_them)
                seen.add(header["stream"])
                await all_of_them.send_json(ack(header))
            assert seen == {0, 1, 2}
            for number in range(3):
                header, _, _ = await picture(one)
                assert (header["stream"], header["number"]) == (1, number)
                session.step()
                await one.send_json(ack(header))

    run(visit, num_streams=3)


def test_no_more_than_two_pictures_are_on_their_way_and_the_next_one_is_the_newest() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            await viewer.send_json(WATCH)
            first, _, _ = await picture(viewer)
            session.step()
            second, _, _ = await picture(viewer)
            for _ in range(5):
                session.step()
                await text(
                    viewer, "state"
                )  # a picture before it would have been passed over, so look at what was asked
            assert (first["number"], second["number"]) == (0, 1)
            asked = len(session.asked)
            session.step()
            await text(viewer, "state")
            assert len(session.asked) == asked
            await viewer.send_json(ack(first))
            third, _, _ = await picture(viewer)
            assert third["number"] == 7

    run(visit)


def test_a_viewer_that_never_answers_is_sent_away_and_slows_nobody() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        silent = await joined(client, url)
        await silent.send_json(WATCH)
        async with joined(client, url) as lively:
            await lively.send_json(WATCH)
            gone = asyncio.ensure_future(closed(silent))
            shown = 0
            while not gone.done():
                header, _, _ = await picture(lively)
                assert header["number"] == shown
                session.step()
                shown += 1
                await lively.send_json(ack(header))
            assert shown > 20
        await silent.close()

    run(visit, limits=Limits(answer_seconds=0.6))


def test_a_viewer_that_reads_nothing_holds_two_pictures_and_no_more() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, (host, int(port)))
            lines = [
                "GET /socket HTTP/1.1", f"Host: {host}:{port}", f"Origin: {url}", "Upgrade: websocket",
                "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
                "", "",
            ]  # fmt: skip
            await loop.sock_sendall(deaf, "\r\n".join(lines).encode())
            async with joined(client, url) as viewer:
                while (await text(viewer, "state"))["viewers"] < 2:
                    pass
                watch = json.dumps({"do": "watch", "streams": [0], "size": 1920}).encode()
                await loop.sock_sendall(deaf, bytes([0x81, 0x80 | len(watch)]) + bytes(4) + watch)
                while not session.asked:
                    await text(viewer, "state")
                for _ in range(8):
                    session.step()
                    await text(viewer, "state")
                assert len(session.asked) <= 2
                while (await text(viewer, "state"))["viewers"] > 1:  # and in the end it is cut off
                    pass

    run(visit, size=(1920, 1080), limits=Limits(answer_seconds=5))


def test_the_mjpeg_stream_decodes_and_moves_on() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with client.get(f"{url}/stream/0.mjpeg") as answer:
            assert answer.content_type == "multipart/x-mixed-replace"
            reader = aiohttp.MultipartReader.from_response(answer)
            means = []
            for _ in range(3):
                part = await reader.next()
                assert isinstance(part, aiohttp.BodyPartReader)
                image = cv2.imdecode(np.frombuffer(await part.read(), np.uint8), cv2.IMREAD_COLOR)
                assert image.shape == (192, 320, 3)
                means.append(image.astype(int))
                session.step()
            assert (means[0] != means[2]).any()

    run(visit, size=(320, 192))


def test_the_configured_style_is_in_the_mjpeg_stream_and_the_page_learns_of_it() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        session.settings = replace(session.settings, attention="none")
        session.zones = (Zone("left", ((0.05, 0.8), (0.5, 0.8), (0.5, 0.95), (0.05, 0.95))),)
        session.lines = (Line("gate", (0.6, 0.9), (0.95, 0.9)),)
        session.alpha = 0.3
        async with client.get(f"{url}/stream/0.mjpeg") as answer:
            part = await aiohttp.MultipartReader.from_response(answer).next()
            assert isinstance(part, aiohttp.BodyPartReader)
            image = cv2.imdecode(np.frombuffer(await part.read(), np.uint8), cv2.IMREAD_COLOR)
        height, width = image.shape[:2]
        for x, y in ((0.1, 0.95), (0.65, 0.9)):
            column = image[round(y * height) - 4 : round(y * height) + 5, round(x * width)]
            assert column.min(1).max() > 190
        async with joined(client, url) as viewer:
            hello = await text(viewer, "hello")
        assert (hello["alpha"], hello["points"]) == (0.3, [[0.5, 0.5]])
        assert hello["zones"] == [[[0.05, 0.8], [0.5, 0.8], [0.5, 0.95], [0.05, 0.95]]]
        assert hello["lines"] == [[[0.6, 0.9], [0.95, 0.9]]]
        session.points = tuple((0.1 * number, 0.5) for number in range(1, 7))
        async with joined(client, url) as viewer:
            assert (await text(viewer, "hello"))["points"] == [[0.1 * number, 0.5] for number in range(1, 5)]

    run(visit, size=(640, 384))


def test_a_snapshot_is_a_png_in_full_size() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with client.get(f"{url}/snapshot/0.png") as answer:
            assert answer.content_type == "image/png"
            image = cv2.imdecode(np.frombuffer(await answer.read(), np.uint8), cv2.IMREAD_COLOR)
            assert image.shape == (48, 64, 3)

    run(visit)


def test_there_are_only_so_many_places() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer, client.get(f"{url}/stream/0.mjpeg"):
            assert await text(viewer, "state")
            for path in ("/socket", "/stream/0.mjpeg"):
                headers = {"Upgrade": "websocket", "Origin": url} if path == "/socket" else {}
                async with client.get(url + path, headers=headers) as answer:
                    assert answer.status == 503
        async with joined(client, url) as again:
            assert await text(again, "hello")

    run(visit, limits=Limits(viewers=2))


def test_connections_are_bounded() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        open_ones = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
        ends = [asyncio.ensure_future(reader.read()) for reader, _ in open_ones]
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        assert [end.result() for end in done] == [b""] * len(done)
        assert 1 <= len(done) <= 2
        for _, writer in open_ones:
            writer.close()
        await asyncio.gather(*ends)

    run(visit, limits=Limits(connections=3))


# Commands


def test_shared_settings_reach_the_session_and_all_viewers() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as one, joined(client, url) as other:
            await one.send_json({"do": "change", "settings": {"attention": "encoder", "layer": 2, "head": "max"}})
            while (settings := (await text(other, "state"))["settings"])["attention"] != "encoder":
                pass
            assert (settings["layer"], settings["head"]) == (2, "max")
            await one.send_json({"do": "pause", "stream": 0, "on": True})
            while not (await text(other, "state"))["streams"][0]["is_paused"]:
                pass
            await one.send_json({"do": "record", "stream": 0, "on": True})
            while not (await text(other, "state"))["streams"][0]["is_recording"]:
                pass

    run(visit)


def test_points_belong_to_the_viewer_and_go_with_it() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            await viewer.send_json({"do": "points", "stream": 0, "xy": [[0.25, 0.5]]})
            await viewer.send_json(WATCH)
            header, _, _ = await picture(viewer)
            while not header["grid"]["points"]:
                session.step()
                await viewer.send_json(ack(header))
                header, _, grids = await picture(viewer)
            assert header["grid"]["points"] == [[0.25, 0.5]]
            assert len(grids) == (header["grid"]["cross"] + 1) * header["grid"]["rows"] * header["grid"]["columns"]

    session = run(visit)
    assert session.calls == [("points", 0, ((0.25, 0.5),)), ("forget",)]
    assert session.num_points == 0


def test_points_that_are_still_being_set_go_with_their_viewer() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        set_points = session.set_points

        def slow(*values: Any) -> None:
            begun.set()
            assert goes_on.wait(10)
            set_points(*values)

        session.set_points = slow  # type: ignore[method-assign]
        in_a_hurry = aiohttp.ClientWSTimeout(ws_close=0.1)
        async with joined(client, url, timeout=in_a_hurry) as viewer:
            await viewer.send_json({"do": "points", "stream": 0, "xy": [[0.25, 0.5]]})
            assert await asyncio.to_thread(begun.wait, 10)
        async with joined(client, url) as other:
            while (await text(other, "state"))["viewers"] > 1:
                pass
            goes_on.set()
            assert await asyncio.to_thread(session.has_forgotten.wait, 10)

    session = run(visit)
    assert session.calls == [("points", 0, ((0.25, 0.5),)), ("forget",)]
    assert session.num_points == 0


def test_a_viewer_keeps_nothing_of_streams_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    viewers: list[Any] = []
    seat = audience.Viewer
    monkeypatch.setattr(audience, "Viewer", lambda *given: viewers.append(seat(*given)) or viewers[-1])

    def held(viewer: Any) -> dict[str, int]:
        return {name: len(value) for name, value in vars(viewer).items() if isinstance(value, (set, dict, list))}

    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            await text(viewer, "state")
            before = held(viewers[0])
            for index in range(50):
                await viewer.send_json({"do": "points", "stream": 10**9 + index, "xy": []})
            await viewer.send_json({"do": "points", "stream": 7, "xy": [[0, 0]]})
            await text(viewer, "error")
            assert held(viewers[0]) == before

    session = run(visit)
    assert session.num_points == 0


def test_a_session_forgets_all_points_of_a_viewer_at_once() -> None:
    with rig(2) as made:
        session = made.session
        for stream_id in (0, 1):
            session.set_points("ann", stream_id, [(0.1, 0.2)])
        session.set_points("bob", 1, [(0.5, 0.5)])
        session.forget("ann")
        assert made.detector.choices["points"] == ((0.5, 0.5),)
        session.forget("bob")
        session.forget("nobody")
        assert made.detector.choices["attention"] == "cross"


def test_states_are_made_seldom_and_the_last_one_has_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    state_message = audience.state_message
    monkeypatch.setattr(audience, "state_message", lambda *given: made.append(0) or state_message(*given))

    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            await text(viewer, "state")
            start, before = time.monotonic(), len(made)
            for number in range(60):
                await viewer.send_json({"do": "pause", "stream": 0, "on": number % 2 == 0})
            await viewer.send_json({"do": "record", "stream": 0, "on": True})
            while not (stream := (await text(viewer, "state"))["streams"][0])["is_recording"]:
                pass
            assert not stream["is_paused"]
            assert len(made) - before <= 2 + (time.monotonic() - start) / 0.1

    run(visit)


def test_the_state_is_not_made_for_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(audience, "state_message", lambda *_: made.append(0) or f"[{len(made)}]")
    monkeypatch.setattr(audience, "_STATE_KEPT_SECONDS", 60)

    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        for _ in range(3):
            async with client.get(f"{url}/state") as answer:
                assert await answer.json() == [1]

    run(visit)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ({"do": "change", "settings": {"threshold": 0}}, "expected some of"),
        ({"do": "change", "settings": {"layer": "6"}}, "layer: expected int"),
        ({"do": "change", "settings": {"layer": 99}}, "expected -6 to 5"),
        ({"do": "change", "settings": [1]}, "expected some of"),
        ({"do": "points", "stream": 0, "xy": [[0.5, 1.5]]}, "fractions"),
        ({"do": "points", "stream": 0, "xy": [[0.5, float("nan")]]}, "fractions"),
        ({"do": "points", "stream": 0, "xy": [[0.1, 0.1]] * 5}, "at most 4"),
        ({"do": "points", "stream": [], "xy": []}, "whole number"),
        ({"do": "points", "stream": 7, "xy": [[0, 0]]}, "no stream 7"),
        ({"do": "pause", "stream": 7, "on": True}, "no stream 7"),
        ({"do": "pause", "stream": 0, "on": "yes"}, "true or false"),
        ({"do": "record", "stream": 1, "on": True}, "no space left"),
        ({"do": "watch", "streams": [{}], "size": 1}, "whole number"),
        ({"do": "watch", "streams": [0] * 65, "size": 1}, "at most 64"),
    ],
)
def test_a_wrong_command_is_answered_in_one_line(command: dict[str, Any], said: str) -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            await viewer.send_json(command)
            assert said in await text(viewer, "error")

    run(visit, num_streams=2)


@pytest.mark.parametrize("rubbish", ["", "{", "[]", "7", '{"do": []}', '{"do": "reboot"}', "[" * 9000])
def test_what_is_no_command_ends_the_connection(rubbish: str) -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            await viewer.send_str(rubbish)
            assert await closed(viewer) == aiohttp.WSCloseCode.POLICY_VIOLATION

    run(visit)


def test_messages_that_are_too_large_end_the_connection() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            await viewer.send_json({"do": "watch", "padding": "x" * 20_000})
            assert await closed(viewer) == aiohttp.WSCloseCode.POLICY_VIOLATION
        async with joined(client, url) as viewer:
            await viewer.send_bytes(bytes(2 << 20))
            assert await closed(viewer) == aiohttp.WSCloseCode.MESSAGE_TOO_BIG

    run(visit)


@pytest.mark.parametrize("command", [WATCH, {"do": "ack", "stream": 0, "number": 5}, {"do": "ack", "stream": []}])
def test_too_many_commands_end_the_connection(command: dict[str, Any]) -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            for _ in range(20):
                await viewer.send_json(command)
            assert await closed(viewer) == aiohttp.WSCloseCode.POLICY_VIOLATION

    run(visit, limits=Limits(commands_per_second=5))


# The browser's camera


def some_jpeg(width: int = 32, height: int = 24) -> bytes:
    return encode_jpeg(np.full((height, width, 3), 200, np.uint8), 90)


def test_a_browsers_camera_is_a_stream_while_it_is_open() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            await viewer.send_json({"do": "camera", "on": True, "name": "<b>front</b>\x07" + "x" * 99})
            assert await text(viewer, "camera") == 1
            assert session.streams[1].name == "<b>front</b>" + "x" * 28
            await viewer.send_json({"do": "watch", "streams": [1], "size": 480})
            await viewer.send_bytes(some_jpeg())
            header, _, _ = await picture(viewer)
            assert (header["stream"], header["width"], header["height"]) == (1, 32, 24)

    session = run(visit)
    assert [stream.stream_id for stream in session.streams] == [0]
    assert abs(int(session.pushed[0][1].mean()) - 200) < 3


PROGRESSIVE = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
# Of the two bytes of marker 00 a decoder skips only these, so that the size is that of the picture behind them.
HIDDEN = some_jpeg(2000, 1500)
HIDDEN = HIDDEN[:2] + b"\xff\x00" + len(HIDDEN).to_bytes(2) + HIDDEN[2:] + some_jpeg()[2:]
TWO_SIZES = some_jpeg()[:2] + bytes.fromhex("ffc0000b080018002001011100") + some_jpeg(2000, 1500)[2:]
BOMB = some_jpeg().replace(bytes([0, 24, 0, 32]), bytes([0xFF, 0xFF, 0xFF, 0xFF]), 1)


@pytest.mark.parametrize(
    ("rubbish", "said"),
    [
        (b"", "not a JPEG"),
        (b"GIF89a", "not a JPEG"),
        (b"\xff\xd8" + b"\xff" * 500, "not a JPEG"),
        (some_jpeg()[:60], "not a JPEG"),
        (PROGRESSIVE, "progressive"),
        (BOMB, "65535x65535"),
        (some_jpeg(2000, 1500), "2000x1500"),
        (HIDDEN, "not a JPEG"),
        (TWO_SIZES, "not a JPEG"),
    ],
    ids=["nothing", "a GIF", "fill bytes", "cut off", "progressive", "a bomb", "too large", "hidden", "two sizes"],
)
def test_rubbish_from_a_camera_ends_it_and_nothing_else(rubbish: bytes, said: str) -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            await viewer.send_json({"do": "camera", "on": True, "name": "x"})
            await text(viewer, "camera")
            await viewer.send_bytes(rubbish)
            assert said in await text(viewer, "error")
            await viewer.send_json(WATCH)
            await picture(viewer)
        assert not session.pushed

    session = run(visit)
    assert ("remove", 1) in session.calls


def test_cameras_are_bounded_in_number_and_rate() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as one, joined(client, url) as other:
            for viewer in (one, other):
                await viewer.send_json({"do": "camera", "on": True, "name": "x"})
            assert await text(one, "camera") == 1
            assert "close one first" in await text(other, "error")
            for _ in range(30):
                await one.send_bytes(some_jpeg())
            await one.send_json({"do": "camera", "on": False})
            while len((await text(one, "state"))["streams"]) > 1:
                pass
            assert 4 <= len(session.pushed) < 20

    run(visit, limits=Limits(cameras=1, camera_rate=2))


def test_pictures_without_a_camera_are_ignored_up_to_a_point() -> None:
    async def visit(session: FakeSession, client: aiohttp.ClientSession, url: str) -> None:
        async with joined(client, url) as viewer:
            for _ in range(20):
                await viewer.send_bytes(b"x")
            assert await closed(viewer) == aiohttp.WSCloseCode.POLICY_VIOLATION
        assert not session.pushed

    run(visit, limits=Limits(commands_per_second=5))


def test_a_size_is_read_past_other_segments() -> None:
    plain = some_jpeg(40, 30)
    assert jpeg_size_hw(plain) == (30, 40)
    with_thumbnail = plain[:2] + b"\xff\xe1" + (2 + len(plain)).to_bytes(2) + plain + plain[2:]
    assert jpeg_size_hw(with_thumbnail[:2] + b"\xff\xff" + with_thumbnail[3:]) == (30, 40)
    assert decode_jpeg(plain, 1200).shape == (30, 40, 3)
    with pytest.raises(SourceError, match="1199 pixels"):
        decode_jpeg(plain, 1199)


def test_a_jpeg_keeps_colours_and_is_made_smaller_only() -> None:
    red = np.zeros((40, 80, 3), np.uint8)
    red[..., 0] = 220
    back = decode_jpeg(encode_jpeg(red, 95, 20), 10_000)
    assert back.shape == (10, 20, 3)
    assert np.abs(back.astype(int).mean((0, 1)) - (220, 0, 0)).max() < 4
    assert decode_jpeg(encode_jpeg(red, 95, 500), 10_000).shape == red.shape
    with pytest.raises(SinkError, match="70000"):
        encode_jpeg(np.zeros((1, 70_000, 3), np.uint8), 80)


# The end


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_within_two_seconds_with_a_viewer_there(ending: signal.Signals) -> None:
    program = """
import asyncio, signal
from fake_session import FakeSession
from stream_detr.web import served
def stop(*_): raise KeyboardInterrupt
signal.signal(signal.SIGTERM, stop)
session = FakeSession()
session.step()
session.run(20)
async def show():
    async with served(session) as url:
        print(url, flush=True)
        await asyncio.Event().wait()
try:
    asyncio.run(show())
except KeyboardInterrupt:
    print("ended", session.num_listeners, flush=True)
finally:
    session.close()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    with child:
        assert child.stdout is not None
        url = child.stdout.readline().strip().rstrip("/")

        async def visit() -> float:
            async with (
                asyncio.timeout(20),
                aiohttp.ClientSession() as client,
                joined(client, url) as viewer,
                client.get(f"{url}/stream/0.mjpeg") as stream,
            ):
                await stream.content.readany()
                await viewer.send_json(WATCH)
                await picture(viewer)
                child.send_signal(ending)
                start = time.monotonic()
                assert await closed(viewer) == aiohttp.WSCloseCode.GOING_AWAY
                await asyncio.to_thread(child.wait)
                return time.monotonic() - start

        assert asyncio.run(visit()) < 10
        assert child.stdout.read() == "ended 0\n"
        assert child.returncode == 0
