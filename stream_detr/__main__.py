"""``python -m stream_detr`` is ``stream-detr``."""

from __future__ import annotations

import sys

from stream_detr.cli import main

if __name__ == "__main__":
    sys.exit(main())
