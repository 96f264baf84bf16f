"""A video stays playable when the run is killed, fails, is interrupted, or the disk is full."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from stream_detr.errors import SinkError
from stream_detr.sinks import VideoOptions, open_sink
from stream_detr.sources import open_source
from stream_detr.structures import Detections, Frame, StreamInfo
from tests.media import frame_number, grey, images, times


def write(path: Path) -> None:
    """200 grey frames."""
    info = StreamInfo("clip", 64, 48, Fraction(25))
    with open_sink(str(path), info, options=VideoOptions(), audio=None) as sink:
        for index in range(200):
            frame = Frame(grey(index, 64, 48), index, index, Fraction(1, 25), 0.0, info)
            sink.write(frame, frame.image, Detections.empty())


WRITE_UNTIL_KILLED = """
import sys
from fractions import Fraction
from stream_detr.sinks import VideoOptions, open_sink
from stream_detr.structures import Detections, Frame, StreamInfo
from tests.media import grey
info = StreamInfo("clip", 64, 48, Fraction(25))
sink = open_sink(sys.argv[1], info, options=VideoOptions(), audio=None)
for index in range(200):
    frame = Frame(grey(index, 64, 48), index, 7 + index, Fraction(1, 25), 0.0, info)
    sink.write(frame, frame.image, Detections.empty())
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_a_kill_loses_no_more_than_a_group_of_pictures(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        child.send_signal(signal.SIGKILL)
    left = times(path)
    group, in_the_encoder = 50, 30
    assert len(left) >= 200 - group - in_the_encoder
    assert left == [Fraction(7 + index, 25) for index in range(len(left))]
    assert [frame_number(image) for image in images(path)] == [index % 16 for index in range(len(left))]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_in_the_loop_leaves_a_finished_file(tmp_path: Path, error: type[BaseException]) -> None:
    info = StreamInfo("clip", 64, 48, Fraction(25))
    sink = open_sink(str(tmp_path / "out.mp4"), info, options=VideoOptions(), audio=None)

    def loop() -> None:
        with sink:
            for index in range(5):
                image = grey(index, 64, 48)
                each = Frame(image, index, index, Fraction(1, 25), 0.0, info)
                sink.write(each, image, Detections.empty())
            raise error

    with pytest.raises(error):
        loop()
    sink.close()
    assert times(tmp_path / "out.mp4") == [Fraction(index, 25) for index in range(5)]


FILL_THE_DISK = """
import json, resource, sys
from fractions import Fraction
from stream_detr.errors import SinkError
from stream_detr.sinks import VideoOptions, open_sink
from stream_detr.structures import Detections, Frame, StreamInfo
from tests.media import noise
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
info = StreamInfo("clip", 64, 48, Fraction(25))
written = 0
try:
    with open_sink(sys.argv[1], info, options=VideoOptions(), audio=None) as sink:
        for index in range(400):
            frame = Frame(noise(index, 64, 48), index, index, Fraction(1, 25), 0.0, info)
            sink.write(frame, frame.image, Detections.empty())
            written += 1
except SinkError as error:
    print(json.dumps([written, str(error)]))
"""


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_a_full_disk_is_one_line_and_what_was_written_can_be_played(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    command = [sys.executable, "-c", FILL_THE_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    written, message = json.loads(done.stdout)
    assert done.stderr == ""
    assert message.startswith(f"{path}: the file has reached the size limit")
    assert 0 < written < 400
    with open_source(str(path)) as source:
        assert sum(1 for _ in source) >= 40


def test_no_space_at_all_is_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not there")
    (tmp_path / "out.mp4").symlink_to("/dev/full")
    with pytest.raises(SinkError, match="no space left on the disk"):
        write(tmp_path / "out.mp4")


def test_a_folder_that_has_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"out\.mp4: can't be written \(No such file or directory\)"):
        write(tmp_path / "gone" / "out.mp4")
