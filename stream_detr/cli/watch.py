"""The live command: streams in, a page to watch them on, recordings beside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stream_detr.config import Config
from stream_detr.errors import StreamDetrError
from stream_detr.sinks import check_output

if TYPE_CHECKING:
    from stream_detr.live import LiveSession
    from stream_detr.sources import Input

_GLANCE_SECONDS = 0.2


def watch(sources: Sequence[str], config: Config, *, quiet: bool) -> int:
    """Run a live session until its streams have ended, and return the exit code.

    What is wrong with settings, addresses and outputs is said before the model loads.

    Raises:
        StreamDetrError: every stream has ended by an error.
    """
    from stream_detr.capture import Capture
    from stream_detr.live import LiveSession, SessionOptions
    from stream_detr.pipeline import load_detector
    from stream_detr.report import write_report
    from stream_detr.sources.live import LiveOptions, find_streams
    from stream_detr.web.access import is_loopback, new_token

    inputs = find_streams(sources, realtime=config.realtime) if sources else []
    if not inputs and config.view == "none":
        raise StreamDetrError("no stream and no view: name a camera (0), an address (rtsp://...) or pattern")
    if config.report:
        check_output(config.report, config.overwrite, may_be_folder=False)
    if config.record:
        check_output(config.record, overwrite=True)  # every recording has the time in its name
    token = config.token or (None if is_loopback(config.host) else new_token())
    streams = LiveOptions(
        transport=config.transport,
        camera_size=config.camera_size,
        camera_rate=config.camera_rate,
        camera_format=config.camera_format,
        max_reconnects=config.max_reconnects,
    )
    options = SessionOptions(
        max_staleness_seconds=config.max_staleness,
        record=config.record,
        segment_seconds=config.segment,
        with_records=True,
        show_stale=config.show_stale,
        publish=config.publish,
    )
    detector = load_detector(config)
    captures: list[Capture] = []

    def open_capture(given: Input, notify: Callable[[], None]) -> Capture:
        captures.append(Capture(given, streams, notify))
        return captures[-1]

    session = LiveSession(inputs, detector, config, options, open_capture=open_capture)
    try:
        with session:
            if config.view == "browser":
                asyncio.run(_show(session, config, token, quiet))
            else:
                if not quiet:
                    print(f"watching {_count(inputs)}; Ctrl-C ends it", flush=True)
                session.wait()
    finally:
        if config.report:
            write_report(config.report, config.shown(), detector, {"session": session.report()})
    # Only what ended by itself has an error: Ctrl-C does not come here.
    errors = [str(capture.error) for capture in captures if capture.error is not None]
    if errors and len(errors) == len(captures):
        raise StreamDetrError("\n".join(errors))
    return 0


async def _show(session: LiveSession, config: Config, token: str | None, quiet: bool) -> None:
    """Serve the page until every stream has ended; without a stream, until Ctrl-C."""
    from stream_detr.web.access import open_browser
    from stream_detr.web.server import served

    async with served(session, host=config.host, port=config.port, token=token) as url:
        if not quiet:
            print(f"watch at {url} (Ctrl-C ends it)", flush=True)
        open_browser(url)
        while not session.wait(0):
            await asyncio.sleep(_GLANCE_SECONDS)


def _count(inputs: Sequence[object]) -> str:
    return f"{len(inputs)} streams" if len(inputs) != 1 else "1 stream"
