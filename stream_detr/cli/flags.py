"""The flags. Nothing here imports more than argparse: ``stream-detr --help`` has to be instant.

Values stay text and are checked by the config, which knows their ranges; a flag's name is its config key.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import NoReturn

from stream_detr.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, with the nearest flag for one that doesn't exist."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"(?<=://)[^\s/]*@", "", message)  # arguments may be addresses with a password
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        if message.startswith("unrecognized arguments: -"):
            near = difflib.get_close_matches(unknown.split("=")[0], self.flags(), n=1)
            message = f"unknown flag {unknown}" + (f"; did you mean {near[0]}?" if near else "")
        raise UsageError(f"{message} (see {self.prog} --help)")

    def flags(self) -> list[str]:
        """Every flag of this parser and of the commands below it."""
        names: list[str] = []
        for action in self._actions:
            names += action.option_strings
        return names + [name for parser in self.commands().values() for name in parser.flags()]

    def commands(self) -> dict[str, Parser]:
        """The parsers below this one."""
        found = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return dict(found[0]) if found else {}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command and flags; flags that weren't given are absent.

    Raises:
        UsageError: something is unknown, missing or out of place.
        SystemExit: after ``--help`` or ``--version``.
    """
    parser = build_parser()
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        command = parser.commands().get(given.command, parser)  # whose flags may have been meant
        command.error(f"unrecognized arguments: {' '.join(unknown)}")
    return given


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="stream-detr",
        description="See what a detection transformer looks at, on moving video.",
        epilog="stream-detr COMMAND --help lists a command's flags.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", default=argparse.SUPPRESS, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def command(name: str, summary: str) -> Parser:
        return commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    demo = command("demo", "Annotate the clip that comes with the package, with the model that does.")
    demo.add_argument("-o", "--output", metavar="OUT.mp4", help="default: stream-detr-demo.mp4, replaced each time")
    for add in (_model_flags, _run_flags, _attention_flags, _overlay_flags, _output_flags, _shared_flags):
        add(demo)

    process = command("process", "Annotate video files, folders, images or URLs.")
    process.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder, glob, image, URL, - or pattern")
    process.add_argument("-o", "--output", required=True, metavar="OUT", help="file, or folder for several inputs")
    for add in (_model_flags, _run_flags, _attention_flags, _overlay_flags, _output_flags, _shared_flags):
        add(process)

    live = command("live", "Watch cameras and streams; without a source, the browser's own camera.")
    live.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="0, /dev/video0, rtsp://, http(s)://, udp://, rtmp://, pattern"
    )
    for add in (_live_flags, _view_flags, _recording_flags):
        add(live)
    for add in (_model_flags, _follow_flags, _attention_flags, _overlay_flags, _encoder_flags, _shared_flags):
        add(live)

    inspect = command("inspect", "Draw the attention of one frame in full, as in the DETR notebook.")
    inspect.add_argument("source", metavar="IMAGE_OR_VIDEO")
    inspect.add_argument("-o", "--output", required=True, metavar="OUT.png")
    inspect.add_argument("--at", default="0", metavar="SECONDS", help="which frame of a video (default: the first)")
    _option(inspect, "--overwrite", action="store_true", help="replace an output that exists")
    for add in (_model_flags, _attention_flags, _shared_flags):
        add(inspect)

    models = command("models", "List, fetch or describe models.")
    actions = models.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    for name, summary in (
        ("list", "What can be named."),
        ("fetch", "Download one."),
        ("show", "Describe one."),
    ):
        action = actions.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name != "list":
            action.add_argument("name", metavar="NAME" if name == "fetch" else "NAME_OR_PATH")
        _message_flags(action)

    bench = command("bench", "Measure the speed of this machine, stage by stage.")
    bench.add_argument("--rounds", default="10", metavar="N", help="forward passes to take the median of (10)")
    for add in (_model_flags, _shared_flags):
        add(bench)
    _option(bench, "--batch-size", metavar="N", help="frames in one forward pass")
    return parser


def _option(parser: argparse._ActionsContainer, *names: str, **settings: str) -> None:
    """A flag that is absent from the result when it isn't given, so that config file and defaults hold."""
    parser.add_argument(*names, default=argparse.SUPPRESS, **settings)  # type: ignore[arg-type]


def _model_flags(parser: Parser) -> None:
    group = parser.add_argument_group("model")
    _option(group, "--model", metavar="NAME|PATH", help="see stream-detr models list (default detr_resnet50)")
    _option(group, "--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps")
    _option(group, "--precision", metavar="KIND", help="auto, fp32, bf16 or fp16")
    _option(group, "--size", metavar="SHORT", help="shorter side the model sees, in pixels")
    _option(group, "--max-size", metavar="LONG", help="longest the longer side may be, in pixels")
    _option(group, "--threshold", metavar="T", help="lowest score of an object that is kept (0.7)")
    _option(group, "--classes", metavar="A,B", help="keep only these classes")


def _run_flags(parser: Parser) -> None:
    group = parser.add_argument_group("frames")
    _option(group, "--stride", metavar="N", help="run the model on every Nth frame; all frames are written")
    _option(group, "--detect-fps", metavar="R", help="run the model R times a second instead")
    _option(group, "--max-frames", metavar="N", help="stop after N frames of each input")
    _follow_flags(parser)


def _follow_flags(parser: Parser) -> None:
    group = parser.add_argument_group("objects")
    _option(group, "--batch-size", metavar="N", help="frames in one forward pass")
    _option(group, "--min-size", metavar="PX", help="leave out objects whose shorter side is below this")
    _option(group, "--track", action="store_true", help="follow objects over time (the default)")
    _option(group, "--no-track", action="store_false", dest="track", help="don't")
    _option(group, "--smooth", metavar="S", help="smoothing of attention along the track, 0 to below 1 (0.9)")
    _option(
        group,
        "--zone",
        action="append",
        dest="zones",
        metavar="NAME:X,Y;...",
        help="who is in this polygon; repeatable",
    )
    _option(
        group, "--line", action="append", dest="lines", metavar="NAME:X,Y;X,Y", help="count who crosses; repeatable"
    )


def _live_flags(parser: Parser) -> None:
    group = parser.add_argument_group("streams")
    _option(group, "--realtime", action="store_true", help="play files at their own speed")
    _option(group, "--transport", metavar="KIND", help="of RTSP: tcp (the default) or udp")
    _option(group, "--camera-size", metavar="WxH", help="picture size to ask a camera for")
    _option(group, "--camera-rate", metavar="FPS", help="frame rate to ask a camera for")
    _option(group, "--camera-format", metavar="KIND", help="mjpeg: many cameras are faster with it")
    _option(group, "--max-staleness", metavar="S", help="results older than this are not carried on (3)")
    _option(group, "--max-reconnects", metavar="N", help="give a stream up after N attempts in a row (never)")


def _view_flags(parser: Parser) -> None:
    group = parser.add_argument_group("view")
    _option(group, "--view", metavar="KIND", help="browser (the default) or none")
    _option(group, "--host", metavar="ADDRESS", help="listen here (127.0.0.1); another one asks for a token")
    _option(group, "--port", metavar="PORT", help="listen on this port (8765); 0 takes any")
    _option(group, "--token", metavar="TOKEN", help="what visitors must know; made up where one is needed")
    _option(
        group,
        "--name",
        action="append",
        dest="names",
        metavar="HOST",
        help="host names to be reached by, behind a proxy that adds HTTPS; repeatable",
    )


def _recording_flags(parser: Parser) -> None:
    group = parser.add_argument_group("recording")
    _option(group, "--record", metavar="OUT", help="annotated video and records, a file or folder")
    _option(group, "--segment", metavar="S", help="begin a new file every S seconds")
    _option(group, "--show-stale", action="store_true", help="draw attention that is more than a second old, too")
    _option(group, "--publish", action="append", metavar="URI", help="rtsp://, rtmp://, udp:// or an HLS folder")
    _option(group, "--report", metavar="OUT.json", help="figures of the session")
    _option(group, "--overwrite", action="store_true", help="replace outputs that exist")


def _attention_flags(parser: Parser) -> None:
    group = parser.add_argument_group("attention")
    _option(group, "--layer", metavar="L", help="-1 (the last), a list like --layer=0,2,5, or all")
    _option(group, "--head", metavar="H", help="mean, max, or the number of one head, 0 to 7")
    _option(
        group,
        "--point",
        action="append",
        dest="points",
        metavar="X,Y",
        help="fractions of the frame; repeatable",
    )
    _option(group, "--direction", metavar="WHICH", help="looks-at or looked-at-by")


def _overlay_flags(parser: Parser) -> None:
    group = parser.add_argument_group("overlay")
    _option(group, "--attention", metavar="KIND", help="cross, encoder, objects or none")
    _option(group, "--alpha", metavar="A", help="strength of the attention over the picture, 0 to 1 (0.5)")


def _output_flags(parser: Parser) -> None:
    group = parser.add_argument_group("output")
    _option(group, "--records", metavar="OUT", help="the detections: .jsonl, .csv, .parquet, or .json (COCO results)")
    _option(group, "--save-attention", metavar="OUT", help="the attention maps: .npz, or a zarr folder")
    _option(group, "--report", metavar="OUT.json", help="figures of the run")
    _option(group, "--overwrite", action="store_true", help="replace outputs that exist")
    group.add_argument("--no-progress", action="store_true", help="no progress bar")
    _encoder_flags(parser)


def _encoder_flags(parser: Parser) -> None:
    group = parser.add_argument_group("encoder")
    _option(group, "--codec", metavar="NAME", help="of the video (libx264)")
    _option(group, "--crf", metavar="N", help="quality of the video: lower is better and larger (20)")
    _option(group, "--preset", metavar="NAME", help="speed of the encoder (veryfast)")


def _shared_flags(parser: Parser) -> None:
    group = parser.add_argument_group("settings")
    group.add_argument("--config", metavar="FILE", help="settings as YAML, see configs/default.yaml")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable")
    _message_flags(group)


def _message_flags(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
