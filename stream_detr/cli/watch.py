"""The live command: streams in, a page to watch them on, recordings beside."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stream_detr.config import Config
from stream_detr.errors import StreamDetrError, UsageError
from stream_detr.prefetch import background
from stream_detr.sinks import check_output

if TYPE_CHECKING:
    from stream_detr.live import LiveSession
    from stream_detr.sources import Input

_GLANCE_SECONDS = 0.2
_NOT_LIVE = ("records", "save_attention", "max_frames")


def watch(sources: Sequence[str], config: Config, *, quiet: bool) -> int:
    """Run a live session until its streams have ended, and return the exit code.

    What is wrong with settings, addresses and outputs is said before the model loads.

    The code is 1 when a recording or a stream that is sent on has failed.

    Raises:
        UsageError: settings don't fit.
        StreamDetrError: every stream has ended by an error.
    """
    from stream_detr.capture import Capture
    from stream_detr.live import LiveSession, SessionOptions
    from stream_detr.live.outputs import check_options
    from stream_detr.pipeline import load_detector
    from stream_detr.report import write_report
    from stream_detr.sources.live import LiveOptions, find_streams
    from stream_detr.web.access import Access, is_loopback, new_token

    for name in _NOT_LIVE:
        if getattr(config, name) is not None:
            raise UsageError(f"{name}: is not for live; leave it out")
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
    check_options(options, config, len(inputs))
    if config.view == "browser":
        Access(config.host, token, config.names)
        asyncio.run(_check_address(config.host, config.port))
    detector = load_detector(config)
    captures: list[Capture] = []

    def open_capture(given: Input, notify: Callable[[], None]) -> Capture:
        captures.append(Capture(given, streams, notify))
        return captures[-1]

    session = LiveSession(inputs, detector, config, options, open_capture=open_capture)
    try:
        with session:
            if config.view == "browser":
                try:
                    asyncio.run(_show(session, config, token, quiet))
                except asyncio.CancelledError:
                    raise KeyboardInterrupt from None
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
    return 1 if session.outputs.failures else 0


async def _show(session: LiveSession, config: Config, token: str | None, quiet: bool) -> None:
    """Serve the page until every stream has ended; without a stream, until Ctrl-C."""
    from stream_detr.web.access import open_browser
    from stream_detr.web.server import served

    def show_page() -> None:
        open_browser(url)

    with _cancelled_by_sigterm():
        async with served(session, host=config.host, port=config.port, token=token, names=config.names) as url:
            if not quiet:
                print(f"watch at {url} (Ctrl-C ends it)", flush=True)
            background(show_page, "open browser")  # some wait for the browser's end
            try:
                while not session.wait(0):
                    await asyncio.sleep(_GLANCE_SECONDS)
            finally:
                session.end()  # while the page says goodbye


@contextmanager
def _cancelled_by_sigterm() -> Iterator[None]:
    """SIGTERM cancels this task, as Ctrl-C does: raised in the midst of the loop's own code it would break that."""
    loop, task, before = asyncio.get_running_loop(), asyncio.current_task(), signal.getsignal(signal.SIGTERM)
    assert task is not None
    try:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


async def _check_address(host: str, port: int) -> None:
    """Listen for a moment."""
    try:
        listening = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"can't listen on {host} port {port} ({reason}); choose another --host or --port") from None
    listening.close()
    await listening.wait_closed()


def _count(inputs: Sequence[object]) -> str:
    return f"{len(inputs)} streams" if len(inputs) != 1 else "1 stream"
