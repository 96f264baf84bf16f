"""Emoji sprites for the scenes of the embedded model: fetched from the npm registry, rasterised into a cache folder.

    python scripts/sprites.py CACHE_FOLDER            # needs npm and `pip install resvg-py`

Writes ``CACHE_FOLDER/<set>/<class name>-<code point>.png`` (RGBA, cropped to what is visible, longer side 256 pixels).
Nothing of it is committed. Class names are COCO's; ``distractor`` holds things of no class. The script trains on
neither of two sets: they score how the model does on drawings by another hand (the card says which saw what).
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TRAIN_SETS = ("twemoji", "noto", "fluent-emoji-flat")
HELD_OUT_SETS = ("emojione", "openmoji")
SPRITE_PX = 256

CLASSES: dict[str, tuple[str, ...]] = {
    "person": ("1f6b6", "1f3c3", "1f9cd", "1f483", "1f57a", "1f6b6-200d-2640-fe0f", "1f3c3-200d-2640-fe0f"),
    "bicycle": ("1f6b2",),
    "car": ("1f697", "1f699", "1f695", "1f698"),
    "bus": ("1f68c", "1f68d"),
    "train": ("1f682", "1f686", "1f684"),
    "truck": ("1f69a", "1f69b", "1f692"),
    "boat": ("26f5", "1f6a4", "1f6e5"),
    "airplane": ("2708", "1f6e9"),
    "traffic light": ("1f6a6", "1f6a5"),
    "stop sign": ("1f6d1",),
    "bird": ("1f426", "1f99c", "1f54a"),
    "cat": ("1f408", "1f408-200d-2b1b"),
    "dog": ("1f415", "1f429"),
    "horse": ("1f40e",),
    "sheep": ("1f411", "1f40f"),
    "cow": ("1f404", "1f402"),
    "elephant": ("1f418",),
    "bear": ("1f43b",),
    "umbrella": ("2614", "2602"),
    "banana": ("1f34c",),
    "clock": ("1f550", "23f0", "1f557"),
    "giraffe": ("1f992",),
}
DISTRACTORS = (
    "1f333 1f332 1f334 1f335 1f33b 1f337 1f339 1f340 1f341 1f344 1f3e0 1f3e2 1f3eb 26ea 1f5fc 2601 2b50 1f319 1f525 "
    "1f600 1f60e 1f621 2764 1f4a1 1f4e6 1f511 1f3b8 1f3c0 26bd 1f382 1f354 1f955 1f347 1f353 1f41f 1f419 1f98b 1f41d "
    "1f422 1f438 1f680 1f4f1 1f4bb 1f4d5 1f388 1f3a9 1f451 1f48e 1f3c6 2693"
)


def fetch(cache: Path) -> Path:
    """Install the icon packages of all sets under ``cache`` and return the folder that holds them."""
    cache.mkdir(parents=True, exist_ok=True)
    packages = [f"@iconify-json/{name}" for name in (*TRAIN_SETS, *HELD_OUT_SETS)]
    folder = cache / "node_modules" / "@iconify-json"
    if not all((cache / "node_modules" / package).exists() for package in packages):
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(cache), *packages]
        subprocess.run(command, check=True)
    return folder


def rasterise(svg: str) -> NDArray[np.uint8]:
    """Draw an SVG with its longer side ``SPRITE_PX`` after cropping to its visible part -> (H, W, 4) uint8 RGBA."""

    resvg = importlib.import_module("resvg_py")  # only this step needs it
    image = Image.open(io.BytesIO(resvg.svg_to_bytes(svg_string=svg, width=2 * SPRITE_PX))).convert("RGBA")
    visible = image.getchannel("A").point(lambda value: 255 if value > 24 else 0).getbbox()
    image = image.crop(visible)
    scale = SPRITE_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Premultiplied while resizing, or the colour of transparent pixels bleeds into the edge.
    image = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    return np.asarray(image)


def draw_set(folder: Path, target: Path) -> int:
    """Rasterise one icon set into ``target`` and return how many sprites it gave."""
    # Older sets come without code points; all sets name their icons as Noto does.
    named_as = folder if folder.name in ("twemoji", "openmoji", "fluent-emoji-flat") else folder.parent / "noto"
    names: dict[str, str] = json.loads((named_as / "chars.json").read_text())
    icons = json.loads((folder / "icons.json").read_text())
    by_code = {code.replace("-fe0f", ""): name for code, name in names.items()}
    target.mkdir(parents=True, exist_ok=True)
    wanted = [(name, code) for name, codes in CLASSES.items() for code in codes]
    wanted += [("distractor", code) for code in DISTRACTORS.split()]
    count = 0
    for class_name, code in wanted:
        name = by_code.get(code.replace("-fe0f", ""))
        if name is None:
            continue
        name = icons.get("aliases", {}).get(name, {}).get("parent", name)
        if name not in icons["icons"]:
            continue
        icon = icons["icons"][name]
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )
        Image.fromarray(rasterise(svg)).save(target / f"{class_name}-{code}.png")
        count += 1
    return count


def main() -> None:
    """Fetch and rasterise all sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    cache: Path = parser.parse_args().cache
    folder = fetch(cache)
    for name in (*TRAIN_SETS, *HELD_OUT_SETS):
        print(f"{name}: {draw_set(folder / name, cache / name)} sprites", flush=True)


if __name__ == "__main__":
    main()
