"""The published model on a photograph whose content is known; needs the internet."""

from __future__ import annotations

import io
import socket
import urllib.request
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import stream_detr
from stream_detr.models import registry
from stream_detr.structures import Frame, StreamInfo

IMAGE_URL = "http://images.cocodataset.org/val2017/000000039769.jpg"
EXPECTED = [
    ("cat", (13, 52, 314, 471)),
    ("cat", (345, 24, 640, 369)),
    ("remote", (40, 71, 176, 118)),
    ("remote", (333, 73, 368, 188)),
]


def reachable(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True


@pytest.mark.network
@pytest.mark.timeout(900)
def test_the_published_model_finds_what_is_known_to_be_in_the_picture() -> None:
    hosts = [("images.cocodataset.org", 80)]
    if not registry.locate(registry.MODELS["detr_resnet50"]).is_file():
        hosts.append(("dl.fbaipublicfiles.com", 443))
    for host, port in hosts:
        if not reachable(host, port):
            pytest.skip(f"{host} can't be reached from here")
    with urllib.request.urlopen(IMAGE_URL, timeout=30) as response:
        picture = np.array(Image.open(io.BytesIO(response.read())).convert("RGB"))
    frame = Frame(picture, 0, 0, Fraction(1), 0.0, StreamInfo("coco", picture.shape[1], picture.shape[0]))
    detector = stream_detr.load_model("detr_resnet50", device="cpu", precision="fp32")
    (detections,) = detector([frame])
    found = list(zip(detections.names, detections.boxes, detections.scores, strict=True))
    assert sorted(detections.names) == ["cat", "cat", "couch", "remote", "remote"]
    for name, box in EXPECTED:
        near = [score for other, xyxy, score in found if other == name and np.abs(xyxy - box).max() <= 4]
        assert len(near) == 1, f"{name} at {box} not in {found}"
        assert near[0] > (0.99 if name == "cat" else 0.9)
    assert detections.attention is not None
    assert detections.attention.cross is not None
    assert len(detections.attention.cross) == 5
