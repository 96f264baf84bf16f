"""Those who want to be told of new pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock

log = logging.getLogger("stream_detr")


class Subscribers:
    """Callbacks that take a stream's id; any thread may add and tell."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._callbacks: Mapping[object, Callable[[int], None]] = {}  # replaced, never changed: read without the lock

    def add(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Call ``callback`` for every picture, until the returned function is called."""
        ticket = object()
        with self._lock:
            self._callbacks = {**self._callbacks, ticket: callback}
        return partial(self._remove, ticket)

    def tell(self, stream_id: int) -> None:
        """A stream has a new picture. Who can't be told is left out from then on: it must not take the stream along."""
        for ticket, callback in self._callbacks.items():
            try:
                callback(stream_id)
            except Exception as error:
                log.warning("a viewer can't be told of new pictures (%s); it is left out from here on", error)
                self._remove(ticket)

    def _remove(self, ticket: object) -> None:
        with self._lock:
            self._callbacks = {key: kept for key, kept in self._callbacks.items() if key is not ticket}
