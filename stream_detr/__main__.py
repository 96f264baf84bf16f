"""``python -m stream_detr`` is ``stream-detr``."""

from __future__ import annotations

from stream_detr.cli import run

if __name__ == "__main__":
    run()
