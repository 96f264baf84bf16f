"""Class names of the published models."""

from __future__ import annotations

# COCO numbers its 80 classes from 1 to 90; the published models have an output for every number, the gaps included.
_COCO = """
N/A, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat,
traffic light, fire hydrant, N/A, stop sign, parking meter, bench, bird, cat, dog, horse,
sheep, cow, elephant, bear, zebra, giraffe, N/A, backpack, umbrella, N/A,
N/A, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
baseball glove, skateboard, surfboard, tennis racket, bottle, N/A, wine glass, cup, fork, knife,
spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza,
donut, cake, chair, couch, potted plant, bed, N/A, dining table, N/A, N/A,
toilet, N/A, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
toaster, sink, refrigerator, N/A, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
"""
COCO_NAMES: tuple[str, ...] = tuple(name.strip() for name in _COCO.split(","))


def default_names(num_classes: int) -> tuple[str, ...]:
    """Names for a checkpoint that carries none: COCO's where the count is COCO's, otherwise the ids.

    >>> default_names(91)[17], default_names(3)
    ('cat', ('0', '1', '2'))
    """
    return COCO_NAMES if num_classes == len(COCO_NAMES) else tuple(str(i) for i in range(num_classes))
