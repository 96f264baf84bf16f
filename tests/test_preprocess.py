"""Frames become what the reference feeds its model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stream_detr.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, model_size, resize


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [
        ((480, 640), (800, 1066)),
        ((640, 480), (1066, 800)),
        ((1080, 1920), (750, 1333)),
        ((800, 800), (800, 800)),
        ((100, 1000), (133, 1330)),
        ((800, 1201), (800, 1201)),
        ((1, 5000), (1, 5000)),
        ((2, 20000), (1, 10000)),
    ],
)
def test_sizes_are_the_reference_ones(size_hw: tuple[int, int], expected: tuple[int, int]) -> None:
    assert model_size(size_hw, 800, 1333) == expected


def picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    noise = rng.integers(-40, 40, (height, width, 3))
    return (
        (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int64) + noise)
        .clip(0, 255)
        .astype(np.uint8)
    )


@pytest.mark.parametrize("target_hw", [(60, 80), (200, 266), (31, 77)])
def test_resizing_equals_pil_within_one_grey_level(target_hw: tuple[int, int]) -> None:
    image = picture(150, 200)
    ours = resize(torch.from_numpy(image)[None].permute(0, 3, 1, 2), target_hw)[0].permute(1, 2, 0).numpy()
    pil = np.asarray(Image.fromarray(image).resize(target_hw[::-1], Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - pil.astype(int)).max() <= 1


def test_normalised_with_imagenet_statistics_and_batched() -> None:
    pictures = [picture(90, 120), picture(90, 120)[:, ::-1].copy()]
    for image in pictures:
        image.flags.writeable = False
    images = Preprocess(torch.device("cpu"), torch.float32, 90, 1333)(pictures)
    assert images.shape == (2, 3, 90, 120)
    for got, image in zip(images, pictures, strict=True):
        expected = (image / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
        np.testing.assert_allclose(got.permute(1, 2, 0).numpy(), expected, atol=1e-5)
