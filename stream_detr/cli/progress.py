"""How far a run is: a bar in a terminal, a plain line now and then in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Never, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

    from stream_detr.structures import RunReport, StreamInfo

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows frames, frames a second and time left of one input after the other, on stderr."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = perf_counter) -> None:
        self.stream = stream or sys.stderr
        self.clock = clock
        self.name: str | None = None
        self.bar: tqdm[Never] | None = None
        self.started = self.spoke = clock()
        self.last = ""

    def update(self, name: str, info: StreamInfo, report: RunReport, max_frames: int | None = None) -> None:
        """Show ``report.frames_written`` of input ``name``."""
        known = [count for count in (info.num_frames, max_frames) if count]
        total = min(known) if known else None
        if name != self.name:
            self.close()
            self._open(name, total)
        done = report.frames_written
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            return
        now = self.clock()
        rate = done / max(report.elapsed_seconds, 1e-9)
        # A header's count can be wrong; a total that was passed is not shown.
        left = f", {(total - done) / rate:.0f} s left" if total and rate and done < total else ""
        self.last = f"{name}: {done}{f' of {total}' if total and done <= total else ''} frames, {rate:.1f} fps{left}"
        if now - self.spoke >= SECONDS_BETWEEN_LINES:
            self._say()
            self.spoke = now

    def close(self) -> None:
        """Finish the bar, or say the last line."""
        if self.bar is not None:
            self.bar.close()
        self._say()
        self.name = self.bar = None

    def _open(self, name: str, total: int | None) -> None:
        self.name = name
        self.started = self.spoke = self.clock()
        if self.stream.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=name, unit=" frames", file=self.stream, dynamic_ncols=True)

    def _say(self) -> None:
        if self.last:
            self.stream.write(f"{self.last}\n")
            self.stream.flush()
            self.last = ""
