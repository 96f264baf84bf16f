"""The scripts that make and train the embedded model, as far as they need neither sprites nor minutes."""

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from backgrounds import TRAIN_BACKGROUNDS, UNSEEN_BACKGROUNDS  # noqa: E402
from scenes import CLASS_NAMES, Scenes, paste, pose  # noqa: E402
from scoring import Scored, attention_scores, class_precision, covered, interpolated_precision, kept_scores  # noqa: E402
from set_loss import Targets, cell_targets, match, set_loss  # noqa: E402
from tiny_network import Network, cells_of  # noqa: E402
from tiny_start import start_decoder  # noqa: E402

from stream_detr.models.detr import DetrConfig  # noqa: E402

SMALL = DetrConfig(
    block="basic",
    depths=(1, 1, 1),
    num_classes=3,
    num_queries=5,
    hidden_dim=32,
    num_heads=4,
    encoder_layers=1,
    decoder_layers=2,
    feedforward_dim=16,
)


@pytest.fixture
def cache(tmp_path):
    """A folder of sprites: one square of its own colour for each class, and a distractor."""
    for number, name in enumerate((*CLASS_NAMES, "distractor")):
        picture = np.zeros((64, 96, 4), np.uint8)
        picture[4:-4, 4:-4] = (10 * number, 255 - 10 * number, 128, 255)
        (tmp_path / "squares").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "squares" / f"{name}-1.png")
    return tmp_path


def targets(*objects):
    """Targets of one scene from (class, cx, cy, w, h)."""
    return Targets(
        torch.tensor([[one[1:] for one in objects]], dtype=torch.float32), torch.tensor([[one[0] for one in objects]])
    )


def test_a_scene_depends_on_seed_and_index_alone(cache):
    scenes = Scenes(cache, ("squares",), TRAIN_BACKGROUNDS[:1], seed=3, pool=1)
    first = scenes.scene(5)
    scenes.scene(6)
    again = Scenes(cache, ("squares",), TRAIN_BACKGROUNDS[:1], seed=3, pool=1).scene(5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, scenes.scene(6).image)


def test_scenes_have_objects_of_all_classes_inside_the_frame(cache):
    scenes = Scenes(cache, ("squares",), TRAIN_BACKGROUNDS[:2], seed=4, pool=1)
    made = [scenes.scene(index, (96, 160)) for index in range(80)]
    assert {int(k) for scene in made for k in scene.class_ids} == set(range(len(CLASS_NAMES)))
    for scene in made:
        assert scene.image.shape == (96, 160, 3)
        assert scene.image.dtype == np.uint8
        assert 1 <= len(scene.boxes) <= 8
        assert (scene.boxes >= 0).all()
        assert (scene.boxes[:, 2] <= 160).all()
        assert (scene.boxes[:, 3] <= 96).all()
        assert (scene.boxes[:, 2:] > scene.boxes[:, :2]).all()


def test_a_posed_sprite_is_cut_to_what_is_visible_and_pasted_where_it_is_told():
    sprite = np.zeros((64, 96, 4), np.uint8)
    sprite[8:56, 8:88] = (200, 0, 0, 255)
    posed = pose([sprite], 48, angle=0, flip=True)
    assert posed.shape[0] == pytest.approx(24, abs=1)
    assert posed.shape[1] == pytest.approx(40, abs=1)
    canvas = np.zeros((60, 60, 3), np.uint8)
    paste(canvas, posed, -10, 30)
    rows, columns = np.nonzero(canvas[..., 0] > 100)
    assert (rows.min(), columns.min()) == (30, 0)
    assert columns.max() == pytest.approx(posed.shape[1] - 11, abs=1)


@pytest.mark.parametrize("draw", [*TRAIN_BACKGROUNDS, *UNSEEN_BACKGROUNDS], ids=lambda draw: draw.__name__)
def test_every_background_family_draws_a_picture(draw):
    picture = draw(np.random.default_rng(0))
    assert picture.shape == (192, 336, 3)
    assert picture.dtype == np.float32
    assert np.isfinite(picture).all()


def test_matching_gives_each_object_its_own_best_query():
    wanted = targets((0, 0.2, 0.2, 0.2, 0.2), (2, 0.7, 0.7, 0.3, 0.3), (-1, 0, 0, 0, 0))
    logits = torch.zeros(1, 1, 3, 4)
    logits[0, 0, 2, 0] = logits[0, 0, 1, 2] = logits[0, 0, 0, 3] = 30.0
    boxes = torch.tensor([[[[0.7, 0.7, 0.3, 0.2], [0.7, 0.7, 0.3, 0.3], [0.2, 0.2, 0.2, 0.2]]]])
    sets, queries, objects = match(logits, boxes, wanted)
    assert sets.tolist() == [0, 0]
    assert dict(zip(queries.tolist(), objects.tolist(), strict=True)) == {2: 0, 1: 1}
    assert set_loss(logits, boxes, wanted, 0.3).item() == pytest.approx(0, abs=1e-4)
    assert set_loss(logits.flip(2), boxes, wanted, 0.3).item() > 1


def test_a_cell_belongs_to_the_foremost_object_and_small_objects_get_their_cell():
    wanted = targets((0, 0.5, 0.5, 1.0, 1.0), (1, 0.25, 0.25, 0.4, 0.4), (2, 0.93, 0.93, 0.05, 0.05))
    cells = cell_targets(wanted, (2, 4), (0.5, 0.25)).view(2, 4)
    assert cells.tolist() == [[1, 1, 0, 0], [0, 0, 0, 2]]
    assert cells_of(targets((-1, 0, 0, 0, 0)), (2, 4), (32, 64)).tolist() == [[-1] * 8]


def test_the_exported_model_is_what_was_trained_and_groups_do_not_see_each_other():
    torch.manual_seed(0)
    network = Network(SMALL, num_groups=3)
    images = torch.randn(2, 3, 64, 96)
    network.calibrate_stem(images)
    with torch.no_grad():
        for _ in range(3):
            network(images)
        network.eval()
        before = network(images)
        network.fold_stem()
        after = network(images)
        plain = network.export()(images)
        network.more_queries.add_(1.0)
        changed = network(images)
    first_group = -network.num_groups  # of the last layer
    for trained, folded in zip(before[:4], after[:4], strict=True):
        assert torch.allclose(trained, folded, atol=1e-4)
    assert torch.allclose(plain.logits, after[0][first_group], atol=1e-4)
    assert torch.allclose(plain.boxes_cxcywh, after[1][first_group], atol=1e-4)
    assert torch.equal(changed[0][first_group], after[0][first_group])
    assert not torch.allclose(changed[0][-1], after[0][-1])


def test_every_part_of_the_network_gets_a_gradient():
    torch.manual_seed(0)
    network = Network(SMALL, num_groups=2)
    wanted = targets((0, 0.2, 0.2, 0.2, 0.2), (2, 0.7, 0.7, 0.3, 0.3))
    logits, boxes, cell_logits, cell_boxes, _ = network(torch.randn(1, 3, 64, 96))
    assert logits.shape == (2 * 2, 1, 5, 4)
    (set_loss(logits, boxes, wanted, 0.3) + cell_logits.sum() + cell_boxes.sum()).backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert without == {"feature_class.weight", "feature_class.bias"}  # of the first stage only


def test_the_decoder_starts_with_its_attention_on_objects():
    torch.manual_seed(0)
    network = Network(SMALL, num_groups=1).eval()
    one = targets((0, 0.4, 0.5, 0.3, 0.4))
    wanted = Targets(one.boxes_cxcywh.expand(4, -1, -1), one.class_ids.expand(4, -1))
    images = torch.randn(4, 3, 64, 96)
    images[:, :, 16:48, 24:53] += 4  # something to see, where the object is
    assert "residuals" in start_decoder(network, images, wanted)
    network.fold_stem()
    plain = network.export()
    cross = plain.transformer.decoder.blocks()[0].multihead_attn
    cross.keep_projections = True
    with torch.no_grad():
        plain(images)
    assert cross.projections is not None
    q, k = cross.projections
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    on_object = (cells_of(wanted, (4, 6), (64, 96)) >= 0).float()  # (B, S)
    inside = (weights * on_object[:, None, None]).sum(-1)
    assert inside.mean() > 2 * on_object.mean()


def test_average_precision_counts_a_second_hit_on_an_object_as_wrong():
    truth = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 9]], np.float32)
    maps = np.zeros((3, 1, 4), np.float32)
    maps[:, 0, 0] = 1
    one = Scored(
        boxes,
        np.array([0.9, 0.8, 0.75], np.float32),
        np.zeros(3, np.int64),
        maps,
        truth,
        np.zeros(2, np.int64),
        (10, 40),
        10.0,
    )
    assert class_precision([one], 0, 0.5) == pytest.approx(interpolated_precision(np.array([True, False, True]), 2))
    assert np.isnan(class_precision([one], 1, 0.5))
    assert kept_scores([one], 0.7) == {"recall": 1.0, "precision": pytest.approx(2 / 3), "doubles": 1.5}
    scores = attention_scores([one], 0.7)
    assert scores["pointing"] == pytest.approx(2 / 3)
    assert scores["density"] == pytest.approx(4.0)
    assert covered(truth[1], (1, 4), 10.0).tolist() == [[0, 0, 1, 0]]


def test_the_demo_clip_and_its_truth_belong_together():
    truth = json.loads((ROOT / "stream_detr" / "demo.json").read_text())
    with av.open(str(ROOT / "stream_detr" / "demo.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (truth["width"], truth["height"])
        assert stream.average_rate == truth["frame_rate"]
        assert container.streams.audio
        num_frames = sum(1 for _ in container.decode(video=0))
    assert num_frames == len(truth["frames"]) == 250
    for frame in truth["frames"]:
        for one in frame["objects"]:
            x1, y1, x2, y2 = one["box"]
            assert one["class"] in CLASS_NAMES
            assert 0 <= x1 < x2 <= truth["width"]
            assert 0 <= y1 < y2 <= truth["height"]
