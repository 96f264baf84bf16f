"""The command line: from arguments to an exit code, and every error to one line.

Exit codes: 0 done, 1 failed, 2 bad usage or config, 130 interrupted with the outputs closed and playable.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from stream_detr.cli.flags import build_parser, parse
from stream_detr.errors import StreamDetrError, UsageError

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be text
    with _log_on_stderr(quiet="--quiet" in arguments), _terminate_like_ctrl_c():
        try:
            code = _run(arguments)
            sys.stdout.flush()  # here a reader that is gone can still be dealt with
            return code
        except BrokenPipeError:
            # The reader of our output is gone; Python's own flush at exit must not complain about it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except KeyboardInterrupt:
            _say("interrupted; what was written so far is closed and playable")
            return INTERRUPTED
        except Exception as error:
            return _explain(error, show_traceback="--traceback" in arguments)


def run() -> NoReturn:
    """The program: `main` and its exit code.

    A thread that is still inside native code, in a forward pass of seconds say, would hold up the interpreter's own
    end, or crash it.
    """
    code = main()
    threads = sys.modules.get("stream_detr.live.threads")  # loaded only by the command that can leave any
    if threads is not None and threads.are_left():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        given = parse(arguments)
    except SystemExit:  # argparse leaves this way after --help, and only then
        return DONE
    if "version" in given:
        from stream_detr.report import versions

        print(f"stream-detr {versions()['stream-detr']}")
        return DONE
    if given.command is None:
        build_parser().print_help()
        return MISUSED
    from stream_detr.cli.commands import COMMANDS

    return COMMANDS[given.command](given)


def _explain(error: Exception, *, show_traceback: bool) -> int:
    """Say what went wrong on stderr, a line for each thing, and return the exit code."""
    if show_traceback:
        traceback.print_exception(error)
    if isinstance(error, StreamDetrError):
        for line in str(error).splitlines():
            _say(f"error: {line}")
        return MISUSED if isinstance(error, UsageError) else FAILED
    first = (str(error).strip().splitlines() or [""])[0]
    hint = "" if show_traceback else " (--traceback shows where; please report it)"
    _say(f"error: unexpected {type(error).__name__}{f': {first}' if first else ''}{hint}")
    return FAILED


def _say(line: str) -> None:
    print(f"stream-detr: {line}", file=sys.stderr)


class _Lines(logging.Handler):
    """Log records as lines on stderr, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        line = f"stream-detr: {record.levelname.lower()}: {record.getMessage()}"
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)


@contextmanager
def _log_on_stderr(*, quiet: bool) -> Iterator[None]:
    log, handler = logging.getLogger("stream_detr"), _Lines(logging.ERROR if quiet else logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def _terminate_like_ctrl_c() -> Iterator[None]:
    """SIGTERM closes the outputs as Ctrl-C does. Outside the main thread signals stay as they are."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
