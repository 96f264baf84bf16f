"""The same random weights in an independent implementation and in ours give the same output.

Reference: Hugging Face's models with eager attention, loaded through `load_checkpoint` from what they save; for
``detr_demo`` the notebook's forward, written out below. Tolerance: at most three times the reference's own error
against float64, or 1e-5 of the quantity's standard deviation, whichever is larger. Batch norm is calibrated from data,
because an uncalibrated random ResNet amplifies rounding tenfold.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stream_detr.models.checkpoint import LoadedModel, load_checkpoint
from stream_detr.models.detr import Detr, DetrDemo
from stream_detr.models.transformer import Attention

transformers = pytest.importorskip("transformers", reason="the reference implementation is Hugging Face's")

SIZES_HW = [(128, 192), (160, 96)]


def randomise(model: nn.Module) -> None:
    """Away from initial values that hide mistakes: biases of 0, norms of 1, attention that is all but uniform."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        elif "query_pos" in name:
            parameter.data.normal_()
        elif "q_proj" in name or "k_proj" in name:
            parameter.data.mul_(3)


def calibrate(model: nn.Module, images: Tensor, **arguments: Any) -> None:
    """Set the statistics of every batch norm to those of what reaches it."""

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.1)

    norms = [module for module in model.modules() if "BatchNorm" in type(module).__name__]
    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        model(images, **arguments)
    for handle in handles:
        handle.remove()


def run_reference(model: Any, images: Tensor) -> dict[str, Tensor]:
    """Everything that is compared, by name; attentions per head (B, M, Lq, Lk)."""
    with torch.no_grad():
        output = model(pixel_values=images, output_attentions=True)
    results = {"logits": output.logits, "boxes": output.pred_boxes}
    for kind in ("encoder", "decoder", "cross"):
        for layer, attention in enumerate(getattr(output, f"{kind}_attentions")):
            results[f"{kind} attention {layer}"] = attention
    return results


def attention_modules(model: Detr | DetrDemo) -> dict[str, Attention]:
    encoder, decoder = model.transformer.encoder.blocks(), model.transformer.decoder.blocks()
    return {
        **{f"encoder attention {i}": layer.self_attn for i, layer in enumerate(encoder)},
        **{f"decoder attention {i}": layer.self_attn for i, layer in enumerate(decoder)},
        **{f"cross attention {i}": layer.multihead_attn for i, layer in enumerate(decoder)},
    }


def run_ours(model: Detr | DetrDemo, images: Tensor) -> dict[str, Tensor]:
    """The fast path, as it runs in production; attentions per head from the projections it leaves behind."""
    modules = attention_modules(model)
    for module in modules.values():
        module.keep_projections = True
    with torch.no_grad():
        output = model(images)
    results = {"logits": output.logits, "boxes": output.boxes_cxcywh}
    for name, module in modules.items():
        assert module.projections is not None
        q, k = module.projections
        results[name] = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        module.keep_projections, module.projections = False, None
    return results


def run_ours_with_hooks(model: Detr | DetrDemo, images: Tensor) -> dict[str, Tensor]:
    """With full weights switched on; attentions averaged over heads, from forward hooks as in the notebook."""
    results: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: results.update({name: output[1]})

    handles = [module.register_forward_hook(keep(name)) for name, module in attention_modules(model).items()]
    model.return_attention_weights(True)
    with torch.no_grad():
        output = model(images)
    model.return_attention_weights(False)
    for handle in handles:
        handle.remove()
    return {**results, "logits": output.logits, "boxes": output.boxes_cxcywh}


@dataclass
class Reference:
    """The reference's outputs for a batch of two, in float32 and float64, of one image size."""

    images: Tensor
    single: dict[str, Tensor]
    double: dict[str, Tensor]

    def check(self, ours: dict[str, Tensor], rows: slice, head_mean: bool = False) -> None:
        assert ours.keys() == self.double.keys()
        for name, mine in ours.items():
            exact, reference = self.double[name][rows], self.single[name][rows]
            if head_mean and "attention" in name:
                exact, reference = exact.mean(1), reference.mean(1)
            allowed = max(3 * (reference - exact).abs().max().item(), 1e-5 * exact.std().item())
            assert mine.shape == exact.shape
            error = (mine - exact).abs().max().item()
            assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


@dataclass
class Twins:
    """Our model as loaded, ours prepared for inference, and the reference for each image size."""

    loaded: LoadedModel
    prepared: Detr | DetrDemo
    references: dict[tuple[int, int], Reference]


def hugging_face_model(kind: str) -> Any:
    """A seeded, calibrated model: ``resnet50``, ``dc5`` (timm's ResNet-50) or ``resnet18-prenorm``."""
    torch.manual_seed(0)
    names = {i: f"class {i}" for i in range(91)}
    if kind == "resnet50":
        config = transformers.DetrConfig(
            use_timm_backbone=False, backbone_config=transformers.ResNetConfig(out_features=["stage4"]), id2label=names
        )
        model = transformers.DetrForObjectDetection._from_config(config, attn_implementation="eager")
    elif kind == "dc5":
        config = transformers.DetrConfig(
            backbone="resnet50",
            dilation=True,
            encoder_layers=2,
            decoder_layers=2,
            id2label=names,
        )
        model = transformers.DetrForObjectDetection._from_config(config, attn_implementation="eager")
    else:
        config = transformers.TableTransformerConfig(
            backbone="resnet18", num_queries=15, id2label={0: "table", 1: "table rotated"}
        )
        model = transformers.TableTransformerForObjectDetection._from_config(config, attn_implementation="eager")
    randomise(model)
    calibrate(model.eval(), torch.randn(2, 3, *SIZES_HW[0]))
    return model


@pytest.fixture(scope="module", params=["resnet50", "dc5", "resnet18-prenorm"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    theirs = hugging_face_model(request.param)
    folder = tmp_path_factory.mktemp("saved") / request.param
    theirs.save_pretrained(folder)
    loaded = load_checkpoint(str(folder))
    shutil.rmtree(folder)  # up to 166 MB each
    prepared = copy.deepcopy(loaded.model)
    prepared.prepare(torch.device("cpu"), torch.float32)
    references = {}
    for height, width in SIZES_HW:
        images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
        single = run_reference(theirs, images)
        double = run_reference(theirs.double(), images.double())
        theirs.float()
        references[height, width] = Reference(images, single, double)
    return Twins(loaded, prepared, references)


def test_the_shape_is_the_reference_s(twins: Twins, request: pytest.FixtureRequest) -> None:
    config = twins.loaded.model.config
    kind = request.node.callspec.params["twins"]
    assert config.dilation == (kind == "dc5")
    assert config.pre_norm == (kind == "resnet18-prenorm")
    assert config.depths == ((2, 2, 2, 2) if kind == "resnet18-prenorm" else (3, 4, 6, 3))
    expected = ("table", "table rotated") if kind == "resnet18-prenorm" else tuple(f"class {i}" for i in range(91))
    assert twins.loaded.class_names == expected


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_logits_boxes_and_every_head_of_every_layer_equal_the_reference_in_a_batch(
    twins: Twins, size_hw: tuple[int, int]
) -> None:
    reference = twins.references[size_hw]
    reference.check(run_ours(twins.loaded.model, reference.images), slice(None))


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_a_batch_of_two_equals_two_batches_of_one(twins: Twins, size_hw: tuple[int, int]) -> None:
    reference = twins.references[size_hw]
    for i in range(2):
        reference.check(run_ours(twins.loaded.model, reference.images[i : i + 1]), slice(i, i + 1))


def test_forward_hooks_get_the_reference_s_head_averaged_weights(twins: Twins) -> None:
    reference = twins.references[SIZES_HW[0]]
    reference.check(run_ours_with_hooks(twins.loaded.model, reference.images), slice(None), head_mean=True)


def test_the_model_prepared_for_inference_equals_the_reference(twins: Twins) -> None:
    for size_hw, rows in zip(SIZES_HW, (slice(None), slice(1, 2)), strict=True):
        reference = twins.references[size_hw]
        reference.check(run_ours(twins.prepared, reference.images[rows]), rows)


def test_attention_of_the_random_models_is_far_from_uniform(twins: Twins) -> None:
    for name, attention in twins.references[SIZES_HW[0]].double.items():
        if "attention" in name:
            assert attention.std() > 0.3 * attention.mean(), name


class NotebookDemo(nn.Module):
    """The DETR notebook's model, its forward written out step by step (batch of one, sequence first)."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        self.backbone = resnet50(weights=None)
        del self.backbone.fc
        self.conv = nn.Conv2d(2048, 256, 1)
        with warnings.catch_warnings(action="ignore"):  # about nested tensors, which are not used
            self.transformer = nn.Transformer(256, 8, 6, 6)
        self.linear_class = nn.Linear(256, 92)
        self.linear_bbox = nn.Linear(256, 4)
        self.query_pos = nn.Parameter(torch.rand(100, 256))
        self.row_embed = nn.Parameter(torch.rand(50, 128))
        self.col_embed = nn.Parameter(torch.rand(50, 128))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        net = self.backbone
        x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        x = self.conv(net.layer4(net.layer3(net.layer2(net.layer1(x)))))
        height, width = x.shape[-2:]
        columns = self.col_embed[:width].repeat(height, 1, 1)
        rows = self.row_embed[:height].repeat(width, 1, 1).transpose(0, 1)
        positions = torch.cat([columns, rows], dim=2).reshape(height * width, 1, 256)
        tokens = positions + 0.1 * x.flatten(2).permute(2, 0, 1)
        states = self.transformer(tokens, self.query_pos[:, None]).transpose(0, 1)
        return {"logits": self.linear_class(states), "boxes": self.linear_bbox(states).sigmoid()}


def test_detr_demo_equals_the_notebook_s_forward(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = NotebookDemo()
    randomise(theirs)
    calibrate(theirs.eval(), torch.randn(1, 3, *SIZES_HW[0]))
    path = tmp_path / "demo.pth"
    torch.save(theirs.state_dict(), path)
    loaded = load_checkpoint(str(path))
    path.unlink()
    assert isinstance(loaded.model, DetrDemo)
    assert loaded.class_names[17] == "cat"
    prepared = copy.deepcopy(loaded.model)
    prepared.prepare(torch.device("cpu"), torch.float32)
    exact = copy.deepcopy(theirs).double()
    with torch.no_grad():
        for height, width in SIZES_HW:
            images = torch.randn(2, 3, height, width)
            singles = [theirs(image[None]) for image in images]
            doubles = [exact(image[None].double()) for image in images]
            reference = Reference(
                images, *({k: torch.cat([r[k] for r in rs]) for k in rs[0]} for rs in (singles, doubles))
            )
            for model, rows in ((loaded.model, slice(None)), (loaded.model, slice(0, 1)), (prepared, slice(None))):
                output = model(images[rows])
                reference.check({"logits": output.logits, "boxes": output.boxes_cxcywh}, rows)


def test_the_notebook_s_hooks_work_on_our_model(twins: Twins) -> None:
    model = twins.loaded.model
    assert isinstance(model, Detr)
    conv_features: list[Any] = []
    encoder_weights: list[Tensor] = []
    decoder_weights: list[Tensor] = []
    hooks = [
        model.backbone[-2].register_forward_hook(lambda module, inputs, output: conv_features.append(output)),
        model.transformer.encoder.layers[-1].self_attn.register_forward_hook(
            lambda module, inputs, output: encoder_weights.append(output[1])
        ),
        model.transformer.decoder.layers[-1].multihead_attn.register_forward_hook(
            lambda module, inputs, output: decoder_weights.append(output[1])
        ),
    ]
    model.return_attention_weights(True)
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, *SIZES_HW[0]))
    model.return_attention_weights(False)
    for hook in hooks:
        hook.remove()
    config = model.config
    h, w = (8, 12) if config.dilation else (4, 6)
    channels = 512 if config.block == "basic" else 2048
    assert conv_features[0]["0"].tensors.shape == (1, channels, h, w)
    assert outputs["pred_logits"].softmax(-1)[0, :, :-1].shape == (config.num_queries, config.num_classes)
    assert outputs["pred_boxes"].shape == (1, config.num_queries, 4)
    attention = encoder_weights[0][0].reshape(h, w, h, w)
    torch.testing.assert_close(attention.sum((2, 3)), torch.ones(h, w))
    assert decoder_weights[0].shape == (1, config.num_queries, h * w)
    torch.testing.assert_close(decoder_weights[0].sum(-1), torch.ones(1, config.num_queries))
