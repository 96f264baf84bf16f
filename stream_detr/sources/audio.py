"""Audio packets between the thread that reads and the thread that writes."""

from __future__ import annotations

from collections import deque
from typing import Any

import av
from av.audio.stream import AudioStream

# As long as nobody has taken a packet, perhaps nobody ever will: 64 MiB are an hour of AAC.
_MOST_BYTES_UNCLAIMED = 64 << 20


class PacketQueue:
    """Undecoded packets of one audio stream, in order (``structures.AudioTrack``).

    One thread puts, another takes; a deque's ends are safe for that. Once a sink takes packets the queue holds
    no more than the reading is ahead of the writing. Before, it is bounded in bytes and lets the oldest go.
    """

    def __init__(self, template: AudioStream) -> None:
        self.template: Any = template
        self._packets: deque[av.Packet[Any]] = deque()
        self._is_claimed = False
        self._is_complete = False
        self._num_bytes = 0

    def put(self, packet: av.Packet[Any]) -> None:
        """Add the packet that the container holds next."""
        self._packets.append(packet)
        if self._is_claimed:
            return
        self._num_bytes += packet.size
        while self._num_bytes > _MOST_BYTES_UNCLAIMED:
            self._num_bytes -= self._packets.popleft().size

    def finish(self) -> None:
        """Say that the container has no more packets."""
        self._is_complete = True

    def take(self, until_seconds: float | None) -> list[av.Packet[Any]]:
        """Packets that start before ``until_seconds`` (None = all that are left) and were not taken yet.

        None gets nothing from a stream that was left before its end: what was read ahead belongs to frames that
        nobody will see.
        """
        self._is_claimed = True
        taken: list[av.Packet[Any]] = []
        if until_seconds is None and not self._is_complete:
            return taken
        while self._packets and (until_seconds is None or _start_seconds(self._packets[0]) < until_seconds):
            taken.append(self._packets.popleft())
        return taken


def _start_seconds(packet: av.Packet[Any]) -> float:
    """Presentation time of a packet; one without any goes out at once."""
    ticks = packet.pts if packet.pts is not None else packet.dts
    return float("-inf") if ticks is None else float(ticks * packet.time_base)
