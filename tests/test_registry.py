from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stream_detr.errors import CheckpointError
from stream_detr.models import registry
from stream_detr.models.checkpoint import load_checkpoint, save_checkpoint
from stream_detr.models.detr import Detr, DetrConfig
from stream_detr.models.registry import MODELS, ModelSpec

CONTENT = bytes(range(256)) * 4096  # 1 MiB
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()[:8]


class FileServer(ThreadingHTTPServer):
    """Serves ``CONTENT`` under any name; ``cut.pth`` stops half-way, ``none.pth`` does not exist."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FileRequest)
        self.requests: list[str] = []

    def url(self, file: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{file}"


class FileRequest(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.path == "/none.pth":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/cut.pth" else CONTENT)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch hub's checkpoint folder, empty (not even there)."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "torch" / "hub" / "checkpoints"


def add(monkeypatch: pytest.MonkeyPatch, url: str, sha256: str = CHECKSUM) -> None:
    file = url.rsplit("/", 1)[1]
    monkeypatch.setitem(MODELS, "served", ModelSpec("served", "for tests", file, url, sha256))


def refused(name: str) -> str:
    """The message of the one-line error that fetching ends in."""
    with pytest.raises(CheckpointError) as caught:
        registry.fetch(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_model_is_downloaded_once_into_torch_hub_s_cache(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, server.url("good.pth"))
    path = registry.fetch("served")
    assert path == cache / "good.pth"
    assert path.read_bytes() == CONTENT
    assert registry.fetch("served") == path
    assert server.requests == ["/good.pth"]
    assert list(cache.iterdir()) == [path]


def test_a_file_that_is_there_needs_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, "http://127.0.0.1:9/good.pth")
    cache.mkdir(parents=True)
    (cache / "good.pth").write_bytes(CONTENT)
    assert registry.fetch("served") == cache / "good.pth"


def test_a_wrong_checksum_leaves_nothing_behind(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, server.url("good.pth"), "00000000")
    message = refused("served")
    assert "arrived damaged" in message
    assert CHECKSUM in message
    assert not list(cache.iterdir())


def test_a_connection_cut_half_way_leaves_nothing_behind(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, server.url("cut.pth"))
    assert f"ended after {len(CONTENT) // 2} of {len(CONTENT)} bytes" in refused("served")
    assert not list(cache.iterdir())


def test_an_interrupt_leaves_nothing_behind(server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupt(registry.tqdm):  # type: ignore[type-arg]
        def update(self, n: float | None = 1) -> bool | None:
            raise KeyboardInterrupt

    add(monkeypatch, server.url("good.pth"))
    monkeypatch.setattr(registry, "tqdm", Interrupt)
    with pytest.raises(KeyboardInterrupt):
        registry.fetch("served")
    assert not list(cache.iterdir())


def test_a_missing_file_on_the_server_is_named(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, server.url("none.pth"))
    message = refused("served")
    assert "HTTP 404" in message
    assert server.url("none.pth") in message


def test_offline_names_the_file_the_place_and_the_way_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        add(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}/good.pth")
        message = refused("served")
    assert "good.pth" in message
    assert str(cache) in message
    assert "--model PATH" in message
    assert "refused" in message.lower()


def test_a_cache_that_can_t_be_written_is_one_line(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    add(monkeypatch, server.url("good.pth"))
    assert "--model PATH" in refused("served")


def test_a_cached_file_that_is_not_the_published_one_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, "http://127.0.0.1:9/good.pth")
    cache.mkdir(parents=True)
    (cache / "good.pth").write_bytes(CONTENT[:-1])
    message = refused("served")
    assert str(cache / "good.pth") in message
    assert "delete it" in message


def test_naming_a_model_loads_what_was_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True)
    path = cache / "good.safetensors"
    save_checkpoint(path, Detr(DetrConfig(depths=(1, 1), num_classes=2, hidden_dim=32)), ("a", "b"))
    add(monkeypatch, "http://127.0.0.1:9/good.safetensors", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    loaded = load_checkpoint("served")
    assert (loaded.name, loaded.class_names, loaded.source) == ("served", ("a", "b"), str(path))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    assert "detr_resnet50_dc5" in refused("detr_resnet500")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_fully_specified(name: str) -> None:
    spec = MODELS[name]
    assert spec.name == name
    assert spec.description
    assert spec.dilation == ("dc5" in name)
    if spec.url is not None:
        assert spec.url == f"https://dl.fbaipublicfiles.com/detr/{spec.file}"
        assert re.fullmatch(r"detr[\w-]*-[0-9a-f]{8}\.pth", spec.file)
        assert spec.sha256 == spec.file[-12:-4]
        assert ("r101" in spec.file) == (spec.depths == (3, 4, 23, 3)) == ("101" in name)


@pytest.mark.parametrize(
    ("name", "parameters", "stride"),
    # 41 and 60 million as in the paper's table 1; the demo has a smaller box head.
    [("detr_resnet50", 41.5e6, 32), ("detr_resnet101_dc5", 60.5e6, 16), ("detr_demo", 41.3e6, 32)],
)
def test_a_model_that_is_not_there_is_described_without_fetching_it(
    cache: Path, name: str, parameters: float, stride: int
) -> None:
    facts = registry.describe(name)
    assert facts["name"] == name
    assert isinstance(facts["parameters"], int)
    assert abs(facts["parameters"] - parameters) < 0.2e6
    assert f"stride {stride}" in str(facts["backbone"])
    assert str(facts["classes"]).startswith("80: person, bicycle")
    assert "not fetched" in str(facts["file"])
    assert str(cache) in str(facts["file"])
    assert not cache.exists()


def test_a_file_is_described(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    config = DetrConfig(depths=(1, 1), dilation=False, num_classes=2, num_queries=7, hidden_dim=32, num_heads=4)
    save_checkpoint(path, Detr(config), ("cat", "dog"), sizes=(224, 400))
    facts = registry.describe(str(path))
    assert facts["queries"] == 7
    assert facts["classes"] == "2: cat, dog"
    assert facts["file"] == str(path)
    assert "224" in str(facts["input"])


def test_constructing_a_model_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a model opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert Detr(DetrConfig()).config.num_classes == 91


def test_names_are_listed_without_importing_torch() -> None:
    script = "import sys; from stream_detr.models.registry import MODELS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
