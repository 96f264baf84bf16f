"""Errors a user can meet. Each message is one line that names the thing and the remedy."""


class StreamDetrError(Exception):
    """Anything stream_detr refuses or fails at on purpose; the command line turns it into exit code 1."""


class UsageError(StreamDetrError, ValueError):
    """A flag, a configuration key or an argument is wrong; the command line turns it into exit code 2."""


class SourceError(StreamDetrError, OSError):
    """An input can't be opened or read."""


class SinkError(StreamDetrError, OSError):
    """An output can't be created or written."""


class CheckpointError(StreamDetrError, ValueError):
    """A model file is missing, damaged, unsafe or not the model it was said to be."""


class CaptureError(StreamDetrError, RuntimeError):
    """Attention was asked for and did not arrive: never answered with an empty map."""
