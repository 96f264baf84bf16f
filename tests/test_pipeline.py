"""The loop: every frame that is read is written, in order, with its own detections, whatever happens."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import FakeDetector, FakeSink, FakeSource, make_frame

from stream_detr import pipeline
from stream_detr.config import Config, load_config
from stream_detr.errors import CheckpointError, SinkError, SourceError, StreamDetrError, UsageError
from stream_detr.pipeline import Job, analyze, annotate, detect, run
from stream_detr.report import Outcome
from stream_detr.sources import Input
from stream_detr.structures import Detections, Frame, RunReport, StreamInfo

JOB = Job(Input("video", ("fake.mp4",), "fake.mp4"), "out.mp4")
SECONDS = 20


def loop(
    source: FakeSource,
    sink: FakeSink,
    detector: FakeDetector | None = None,
    on_frame: Any = None,
    **options: object,
) -> RunReport:
    """Run the loop between fakes."""
    outcome = Outcome("fake.mp4", "out.mp4", RunReport())
    config = load_config(flags=options)
    with sink:
        annotate(JOB, source, detector or FakeDetector(), [sink], config, outcome, on_frame)  # type: ignore[arg-type]
    return outcome.report


def pairs(sink: FakeSink) -> list[tuple[int, int]]:
    """Index of each written frame and of the frame its detections were found in."""
    return [(frame.index, int(found.query_ids[0])) for frame, found in sink.written]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_frame_is_written_once_with_its_own_detections(count: int, batch_size: int) -> None:
    sink = FakeSink()
    report = loop(FakeSource(count), sink, batch_size=batch_size)
    assert pairs(sink) == [(index, index) for index in range(count)]
    assert (report.frames_read, report.frames_written, report.frames_dropped) == (count, count, 0)
    assert sink.is_closed


def test_the_threaded_run_equals_a_plain_loop() -> None:
    sink, detector = FakeSink(), FakeDetector()
    loop(FakeSource(9), sink, batch_size=4)
    for (frame, found), plain in zip(sink.written, FakeSource(9), strict=True):
        [expected] = detector([plain])
        assert np.array_equal(frame.image, plain.image)
        assert frame.pts == plain.pts
        assert np.array_equal(found.query_ids, expected.query_ids)


def test_batches_are_full_but_for_the_last() -> None:
    detector = FakeDetector()
    loop(FakeSource(7), FakeSink(), detector, batch_size=3)
    assert detector.batches == [[0, 1, 2], [3, 4, 5], [6]]


def test_without_a_batch_size_the_detector_decides() -> None:
    detector = FakeDetector()
    loop(FakeSource(5), FakeSink(), detector)
    assert detector.batches == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(("stride", "batch_size"), [(2, 1), (3, 2), (3, 4), (5, 8), (50, 4)])
def test_with_a_stride_the_last_detections_are_held_and_all_frames_written(stride: int, batch_size: int) -> None:
    sink, detector = FakeSink(), FakeDetector()
    loop(FakeSource(23), sink, detector, stride=stride, batch_size=batch_size, track=False)
    assert pairs(sink) == [(index, index // stride * stride) for index in range(23)]
    assert [index for batch in detector.batches for index in batch] == list(range(0, 23, stride))
    assert max(map(len, detector.batches)) <= batch_size


@pytest.mark.parametrize("options", [{"stride": 3}, {"detect_fps": 3.5}])
def test_between_detected_frames_objects_are_carried_and_inference_is_a_third(options: dict[str, Any]) -> None:
    sink, detector = FakeSink(), FakeDetector()
    report = loop(FakeSource(31), sink, detector, batch_size=2, **options)
    assert [frame.index for frame, _ in sink.written] == list(range(31))
    seen = [index for batch in detector.batches for index in batch]
    assert report.frames_detected == len(seen) == 11
    for frame, found in sink.written:
        assert found.track_ids.tolist() == [1]
        assert found.carried is not None
        assert found.carried.tolist() == [frame.index not in seen]


def test_images_are_not_followed_and_keep_to_the_threshold(tmp_path: Path, small_model: str) -> None:
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((48, 64, 3), 90 * number, np.uint8))
    found = [each.detections for each in analyze(str(tmp_path), model=small_model, device="cpu", threshold=0.3)]
    plain = [
        each.detections for each in analyze(str(tmp_path), model=small_model, device="cpu", threshold=0.3, track=False)
    ]
    assert [one.scores.tolist() for one in found] == [one.scores.tolist() for one in plain]
    assert all((one.track_ids == -1).all() for one in found)


def test_analyze_refuses_to_write_files() -> None:
    with pytest.raises(UsageError, match=r"records: analyze writes no files; use stream_detr\.run"):
        analyze("pattern", records="out.jsonl")


def test_an_interrupted_run_reports_its_tracks_and_lines(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    config = load_config(flags={"report": str(report), "lines": "gate:0.9,0;0.9,1"})
    detector = FakeDetector(fails_at=4, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(["pattern:64x48@10:1"], str(tmp_path / "out.mp4"), config, detector=detector)  # type: ignore[arg-type]
    [told] = json.loads(report.read_text())["runs"]
    assert told["error"] == "interrupted"
    assert [track["track_id"] for track in told["tracks"]] == [1]
    assert told["crossings"] == {"gate": {}}


def test_a_refused_run_leaves_old_records_alone(tmp_path: Path) -> None:
    records, maps = tmp_path / "out.jsonl", tmp_path / "maps.npz"
    records.write_text("precious")
    (tmp_path / "maps.npz.rows-1.npy").write_bytes(b"rows")
    config = Config(records=str(records), save_attention=str(maps), overwrite=True)
    with pytest.raises(SinkError, match="cut off"):
        run(["pattern:64x48@10:1"], str(tmp_path / "out.mp4"), config, detector=FakeDetector())  # type: ignore[arg-type]
    assert records.read_text() == "precious"


def test_small_objects_are_left_out() -> None:
    kept, dropped = FakeSink(), FakeSink()
    loop(FakeSource(3), kept, min_size=24)  # the fake's object is 32 x 24 pixels
    loop(FakeSource(3), dropped, min_size=25)
    assert [len(found) for _, found in (*kept.written, *dropped.written)] == [1, 1, 1, 0, 0, 0]


def test_zones_and_crossings_come_with_the_objects() -> None:
    sink = FakeSink()
    loop(FakeSource(2), sink, zones=["left:0,0;0.5,0;0.5,1;0,1", "right:0.6,0;1,0;1,1;0.6,1"], lines="gate:0.9,0;0.9,1")
    assert [found.zones for _, found in sink.written] == [(("left",),)] * 2
    assert sink.written[1][1].crossings == {"gate": {}}


def test_a_stride_never_holds_detections_over_to_another_picture() -> None:
    sizes = [(64, 48), (64, 48), (32, 48), (32, 48), (32, 48)]
    frames = [
        make_frame(index, StreamInfo(name, width, height, Fraction(1), None))
        for index, (name, (width, height)) in enumerate(zip("aaabb", sizes, strict=True))
    ]
    results = list(
        detect((frame for frame in frames), FakeDetector(), 2, load_config(flags={"stride": 100}), RunReport())
    )  # type: ignore[arg-type]
    assert [found and int(found.query_ids[0]) for _, found in results] == [0, None, 2, 3, None]


def test_max_frames_stops_reading_there() -> None:
    source, sink = FakeSource(100), FakeSink()
    report = loop(source, sink, max_frames=5, batch_size=2)
    assert pairs(sink) == [(index, index) for index in range(5)]
    assert (source.given, report.frames_read) == (5, 5)


def test_reading_runs_ahead_only_so_far() -> None:
    source = FakeSource(200)
    ahead: list[int] = []

    def look(job: Job, frame: Frame, found: Detections, report: RunReport) -> None:
        ahead.append(source.given - report.frames_written)

    loop(source, FakeSink(), on_frame=look, batch_size=2)
    # Two queues of two batches, a batch in the detector, one being passed on, and an item in each hand.
    assert max(ahead) <= 4 + 2 + 2 + 4 + 3


def test_reading_goes_on_while_a_frame_is_written() -> None:
    read_later_frame = threading.Event()

    class Watched(FakeSource):
        def __iter__(self) -> Any:
            for frame in super().__iter__():
                if frame.index == 3:
                    read_later_frame.set()
                yield frame

    def wait(job: Job, frame: Frame, found: Detections, report: RunReport) -> None:
        assert read_later_frame.wait(SECONDS)

    loop(Watched(10), FakeSink(), on_frame=wait, batch_size=1)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_source_that_fails_surfaces_after_the_frames_before_it(batch_size: int) -> None:
    sink = FakeSink()
    source = FakeSource(20, fails_at=8, error=SourceError("fake.mp4: broken at frame 8"))
    with pytest.raises(SourceError, match="broken at frame 8"):
        loop(source, sink, batch_size=batch_size)
    assert pairs(sink) == [(index, index) for index in range(8)]
    assert sink.is_closed


def test_a_detector_that_fails_surfaces_after_the_frames_before_it() -> None:
    sink = FakeSink()
    with pytest.raises(RuntimeError, match="out of memory"):
        loop(
            FakeSource(20),
            sink,
            FakeDetector(fails_at=5, error=RuntimeError("out of memory")),
            batch_size=2,
        )
    assert pairs(sink) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert sink.is_closed


@pytest.mark.parametrize("error", [SinkError("out.mp4: no space left"), KeyboardInterrupt()])
def test_a_sink_that_fails_is_still_closed_and_the_threads_end(error: BaseException) -> None:
    sink = FakeSink(fails_at=3, error=error)
    with pytest.raises(type(error)):
        loop(FakeSource(1000), sink)
    assert len(sink.written) == 3
    assert sink.is_closed


def test_the_time_of_every_stage_is_taken() -> None:
    report = loop(FakeSource(4), FakeSink())
    assert set(report.stage_seconds) == {"read", "detect", "track", "draw", "write"}
    assert all(seconds > 0 for seconds in report.stage_seconds.values())
    assert report.elapsed_seconds > 0


# -- run: several inputs, outputs, reports ------------------------------------------------------------------


def no_model(config: Config) -> FakeDetector:
    raise AssertionError("the model must not load")


def run_on_patterns(output: Path, config: Config, sources: Sequence[str] = (), **options: Any) -> list[Any]:
    sources = list(sources) or ["pattern:64x48@10:0.5"]
    return run(sources, str(output), config, detector=FakeDetector(), **options)  # type: ignore[arg-type]


def test_a_run_writes_the_video_the_records_and_the_report(tmp_path: Path) -> None:
    records, report = tmp_path / "out.jsonl", tmp_path / "out.json"
    config = Config(records=str(records), report=str(report), preset="ultrafast")
    [outcome] = run_on_patterns(tmp_path / "out.mp4", config)
    assert outcome.error is None
    assert outcome.report.frames_written == 5
    assert (tmp_path / "out.mp4").stat().st_size > 0
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(5))
    assert lines[1]["detections"][0]["class"] == "person"
    assert lines[1]["detections"][0]["track_id"] == 1
    told = json.loads(report.read_text())
    assert told["model"]["name"] == "fake"
    assert told["model"]["precision_reason"] == "it is a fake"
    assert told["settings"]["preset"] == "ultrafast"
    assert "torch" in told["versions"]
    assert told["runs"][0]["report"]["frames_written"] == 5
    assert told["runs"][0]["report"]["frames_detected"] == 5
    assert told["runs"][0]["output"] == str(tmp_path / "out.mp4")
    [track] = told["runs"][0]["tracks"]
    assert track["votes"] == {"person": 1.8, "car": 1.8, "traffic light": 0.9}


def test_a_broken_input_is_reported_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    report = tmp_path / "report.json"
    config = Config(report=str(report))
    with caplog.at_level(logging.ERROR, "stream_detr"):
        outcomes = run_on_patterns(tmp_path / "out", config, [str(broken), "pattern:64x48@10:0.3"])
    assert [outcome.error is None for outcome in outcomes] == [False, True]
    assert str(broken) in caplog.text
    assert outcomes[1].report.frames_written == 3
    assert [each["error"] is None for each in json.loads(report.read_text())["runs"]] == [False, True]


def test_one_model_serves_all_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[FakeDetector] = []

    def load(config: Config) -> FakeDetector:
        loaded.append(FakeDetector())
        return loaded[-1]

    monkeypatch.setattr(pipeline, "load_detector", load)
    outcomes = run(["pattern:64x48@10:0.3", "pattern:48x32@10:0.2"], str(tmp_path / "out"), Config())
    assert [outcome.report.frames_written for outcome in outcomes] == [3, 2]
    assert len({outcome.output for outcome in outcomes}) == 2
    assert len(loaded) == 1


def test_no_model_loads_for_an_input_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "load_detector", no_model)
    with pytest.raises(SourceError, match="no such file"):
        run([str(tmp_path / "no.mp4")], str(tmp_path / "out.mp4"), Config())


def test_an_input_that_cannot_be_opened_leaves_no_output(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    [outcome] = run([str(broken)], str(tmp_path / "out.mp4"), Config(), detector=FakeDetector())
    assert str(broken) in str(outcome.error)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("which", ["out.mp4", "out.jsonl", "out.json"])
def test_an_existing_output_is_refused_before_the_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setattr(pipeline, "load_detector", no_model)
    (tmp_path / which).write_text("precious")
    config = Config(records=str(tmp_path / "out.jsonl"), report=str(tmp_path / "out.json"))
    with pytest.raises(SinkError, match="--overwrite"):
        run(["pattern"], str(tmp_path / "out.mp4"), config)
    assert (tmp_path / which).read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_images_in_give_images_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sizes = {"a.png": (48, 64), "b.jpg": (31, 33), "c.png": (48, 64)}
    for name, (height, width) in sizes.items():
        cv2.imwrite(str(tmp_path / "in" / name), np.full((height, width, 3), 90, np.uint8))
    [outcome] = run_on_patterns(tmp_path / "out", Config(batch_size=2, stride=3), [str(tmp_path / "in")])
    assert (outcome.error, outcome.report.frames_written) == (None, 3)
    written = {path.name: cv2.imread(str(path)).shape[:2] for path in (tmp_path / "out").iterdir()}
    assert written == sizes


def test_overwrite_replaces_outputs(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_text("old")
    [outcome] = run_on_patterns(tmp_path / "out.mp4", Config(overwrite=True))
    assert outcome.error is None
    assert (tmp_path / "out.mp4").stat().st_size > 100


def test_a_model_that_cannot_load_leaves_no_output_but_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config: Config) -> FakeDetector:
        raise CheckpointError("detr.pth: truncated")

    monkeypatch.setattr(pipeline, "load_detector", refuse)
    (tmp_path / "old.jsonl").write_text("precious")
    settings = {"report": str(tmp_path / "out.json"), "records": str(tmp_path / "old.jsonl"), "overwrite": True}
    with pytest.raises(CheckpointError):
        run(["pattern"], str(tmp_path / "out.mp4"), Config(**settings))
    assert (tmp_path / "old.jsonl").read_text() == "precious"
    assert not (tmp_path / "out.mp4").exists()
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["model"] is None
    assert told["runs"] == []


def test_an_interrupted_run_keeps_what_was_written_and_says_so(tmp_path: Path) -> None:
    av = pytest.importorskip("av")

    def interrupt(job: Job, frame: Frame, found: Detections, report: RunReport) -> None:
        if report.frames_written == 4:
            raise KeyboardInterrupt

    config = Config(report=str(tmp_path / "out.json"), records=str(tmp_path / "out.jsonl"))
    with pytest.raises(KeyboardInterrupt):
        run_on_patterns(tmp_path / "out.mp4", config, ["pattern:64x48@10:30"], on_frame=interrupt)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4
    assert json.loads((tmp_path / "out.json").read_text())["runs"][0]["error"] == "interrupted"


def test_passwords_stay_out_of_log_and_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = tmp_path / "out.json"
    uri = "http://camera:s3cret@127.0.0.1:9/clip.mp4?key=s3cret"
    [outcome] = run_on_patterns(tmp_path / "out.mp4", Config(report=str(report)), [uri])
    assert "http://127.0.0.1:9/clip.mp4" in str(outcome.error)
    assert "s3cret" not in caplog.text + report.read_text() + str(outcome)


# -- analyze ------------------------------------------------------------------------------------------------


def test_analyze_yields_every_frame_with_its_detections() -> None:
    results = list(analyze("pattern:64x48@10:0.5", FakeDetector()))  # type: ignore[arg-type]
    assert [result.frame.index for result in results] == list(range(5))
    assert [int(result.detections.query_ids[0]) for result in results] == list(range(5))


def test_analyze_can_be_left_early() -> None:
    for result in analyze("pattern:64x48@10:100", FakeDetector()):  # type: ignore[arg-type]
        if result.frame.index == 3:
            break  # the leaked-thread check of conftest.py looks


def test_analyze_takes_the_options_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Config] = []

    def load(config: Config) -> FakeDetector:
        asked.append(config)
        return FakeDetector()

    monkeypatch.setattr(pipeline, "load_detector", load)
    results = list(analyze("pattern:64x48@10:1", model="tiny", threshold=0.2, max_frames=3, layer="all"))
    assert len(results) == 3
    assert (asked[0].model, asked[0].threshold, asked[0].layer) == ("tiny", 0.2, "all")


def test_analyze_refuses_a_wrong_option_at_the_call() -> None:
    with pytest.raises(UsageError, match="did you mean 'threshold'"):
        analyze("pattern", treshold=0.2)


def test_analyze_opens_nothing_before_the_first_frame_is_asked_for() -> None:
    results = analyze("missing.mp4", FakeDetector())  # type: ignore[arg-type]
    with pytest.raises(StreamDetrError, match=r"missing\.mp4"):
        next(results)


def test_images_of_two_folders_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "same.png"), np.full((48, 64, 3), 90, np.uint8))
    run_on_patterns(tmp_path / "out", Config(), [str(tmp_path / "a"), str(tmp_path / "b")])
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")) == [
        "images-2/same.png",
        "same.png",
    ]


def test_a_large_stride_reads_no_further_ahead_than_a_small_one() -> None:
    source, sink = FakeSource(400), FakeSink()
    most = 0

    class Watching(FakeSink):
        def write(self, frame: Frame, image: Any, detections: Detections) -> None:
            nonlocal most
            most = max(most, source.given - frame.index)
            sink.write(frame, image, detections)

    loop(source, Watching(), FakeDetector(), stride=200, batch_size=1)
    assert most < 150
    assert [frame.index for frame, _ in sink.written] == list(range(400))


@pytest.mark.parametrize("which", ["records", "report"])
def test_records_and_report_need_no_suffix(tmp_path: Path, which: str) -> None:
    [outcome] = run_on_patterns(tmp_path / "out.mp4", Config(**{which: str(tmp_path / "plain")}))
    assert outcome.error is None
    assert (tmp_path / "plain").is_file()
