"""Perceptual difference maps P(a, b) of two batches of images: the encoder's own features, or LPIPS."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn
from torch.nn import functional as F

from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError, ImageShapeError, WeightsError
from robustmed_monai.utils.files import sha256

__all__ = [
    "EncoderPerceptual",
    "LPIPSPerceptual",
    "Perceptual",
    "images_at_once",
    "perceptual_backend",
]

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Takes two batches (B, C, X, Y) in [0, 1], returns their differences (B, 1, X, Y), not negative, float32."""

# LPIPS' name of a backbone: torchvision's name, and the smallest image side that survives its poolings
_BACKBONES = {"squeeze": ("squeezenet1_1", 17), "alex": ("alexnet", 31), "vgg": ("vgg16", 16)}

_CPU_PIXELS = 2**17  # eight images of 128 x 128


def perceptual_backend(
    name: str,
    encoder: nn.Module | None = None,
    layers: Sequence[int] | None = None,
    weights_path: str | Path | None = None,
) -> Perceptual | None:
    """Return the perceptual difference called `name`.

    Args:
        name: "encoder" (the trained encoder's own features, works offline), "lpips" (extra `perceptual` and
            backbone weights), or "none".
        encoder: for "encoder", the module to take features from; see `EncoderPerceptual`.
        layers: for "encoder", the feature maps to use; default all.
        weights_path: for "lpips", file of the backbone; default torch's hub cache.

    Returns:
        A function of two batches (B, C, X, Y) that returns (B, 1, X, Y), or None for "none".

    Raises:
        ConfigError: for an unknown name, or if "encoder" is asked for without an encoder.
        WeightsError: if LPIPS or its weights are missing.

    Example:
        >>> perceptual_backend("none") is None
        True
    """
    if name == "encoder":
        return EncoderPerceptual(encoder, layers)
    if name == "lpips":
        return LPIPSPerceptual(weights_path=weights_path)
    if name == "none":
        return None
    raise ConfigError(f"perceptual={name!r} is unknown; use 'encoder', 'lpips' or 'none'.")


class EncoderPerceptual:
    """Difference of two batches in the multi-scale features of the method's own encoder.

    Of each layer: features of unit length along channels, squared difference summed over channels (so
    ``2 - 2 cos`` of their angle, whatever the width), upsampled bilinearly; then the mean over layers. Range
    [0, 4]. The recipe is LPIPS' without learned weights; putting the encoder in the place of an ImageNet
    network is ours, not RA's, and its values do not compare with LPIPS'. The encoder runs in evaluation mode
    and is put back; TF32 follows torch's switch.

    Args:
        encoder: module with ``features(x) -> list of (B, C_k, X_k, Y_k)``.
        layers: indices into that list; default all.

    Raises:
        ConfigError: if there is no encoder, it has no `features`, or a layer does not exist.

    References:
        R. Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018.
    """

    def __init__(self, encoder: nn.Module | None, layers: Sequence[int] | None = None) -> None:
        if not callable(getattr(encoder, "features", None)):
            raise ConfigError(
                "perceptual='encoder' needs a module with features(x) -> list of maps, "
                f"got {type(encoder).__name__}; give the network's encoder, or use 'lpips' or 'none'."
            )
        self.encoder: Any = encoder
        self.layers = layers

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare images (B, C, X, Y) in [0, 1] with as many others; returns (B, 1, X, Y), float32."""
        first, second = _checked_pair(first, second)
        with eval_mode(self.encoder), torch.autocast(first.device.type, enabled=False):
            return _in_parts(self._difference, first, second)

    def _difference(self, first: Tensor, second: Tensor) -> Tensor:
        maps = self.encoder.features(torch.cat([first, second]))
        if self.layers is not None:
            if not self.layers or not all(0 <= k < len(maps) for k in self.layers):
                raise ConfigError(f"layers={self.layers!r}: the encoder has layers 0 to {len(maps) - 1}.")
            maps = [maps[k] for k in self.layers]
        total = first.new_zeros(len(first), 1, *first.shape[2:])
        for features in maps:
            a, b = F.normalize(features.float(), dim=1, eps=1e-10).chunk(2)
            difference = (a - b).square_().sum(1, keepdim=True)
            total += F.interpolate(difference, first.shape[2:], mode="bilinear", align_corners=False)
        return total / len(maps)


class LPIPSPerceptual:
    """LPIPS v0.1 with learned linear heads, as a map (spatial), on images in [0, 1].

    RA uses the backbone "squeeze". One channel is shown to all three colours. The heads come with the package
    `lpips`; the backbone is torchvision's ImageNet file, which is never downloaded here. TF32 follows torch's
    switch.

    Args:
        net: backbone, "squeeze", "alex" or "vgg".
        weights_path: file of the backbone's state dict; default torch's hub cache. A hash in the file's name,
            as torchvision writes it, is checked before the file is read.

    Raises:
        ConfigError: for an unknown `net`.
        WeightsError: if the package or the file is missing, damaged or of another backbone.

    References:
        R. Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018.
    """

    def __init__(self, net: str = "squeeze", weights_path: str | Path | None = None) -> None:
        if net not in _BACKBONES:
            raise ConfigError(f"net={net!r} is unknown; use one of {', '.join(map(repr, _BACKBONES))}.")
        self.net = net
        self.model = _build_lpips(net, None if weights_path is None else Path(weights_path))

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare images (B, 1 or 3, X, Y) in [0, 1] with as many others; returns (B, 1, X, Y), float32."""
        first, second = _checked_pair(first, second)
        smallest = _BACKBONES[self.net][1]
        if first.shape[1] not in (1, 3) or min(first.shape[2:]) < smallest:
            raise ImageShapeError(
                f"LPIPS with {self.net!r} needs 1 or 3 channels and sides of at least {smallest} pixels, "
                f"got {tuple(first.shape)}."
            )
        with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
            model = self.model.to(first.device)
            a, b = ((2 * x - 1).expand(-1, 3, -1, -1) for x in (first, second))
            return _in_parts(model, a, b)


def images_at_once(images: Tensor) -> int:
    """How many of the images (B, C, X, Y) a network should be given at a time.

    A GPU takes all. On a CPU feature maps out of cache, of freshly mapped memory, cost double.
    """
    if images.device.type != "cpu":
        return max(1, len(images))
    return max(1, _CPU_PIXELS // (images.shape[2] * images.shape[3]))


def _checked_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both batches as plain float32 tensors in [0, 1], if they are alike."""
    if first.ndim != 4 or first.shape != second.shape:
        raise ImageShapeError(
            f"A perceptual difference needs two batches (B, C, X, Y) of one shape, got {tuple(first.shape)} "
            f"and {tuple(second.shape)}."
        )
    first, second = (unit_range(batch, "perceptual difference").float() for batch in (first, second))
    return first, second


def _in_parts(difference: Perceptual, first: Tensor, second: Tensor) -> Tensor:
    """Apply `difference` to as many images at a time as the device likes."""
    at_once = images_at_once(first)
    parts = zip(first.split(at_once), second.split(at_once), strict=True)
    return torch.cat([difference(a, b) for a, b in parts])


def _build_lpips(net: str, weights_path: Path | None) -> nn.Module:
    """LPIPS with the backbone's weights read from disk, quietly and without touching the random state."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # lpips calls torchvision with arguments of old
        try:
            import lpips
            import torchvision
        except ImportError as error:
            raise WeightsError(
                f"perceptual='lpips' needs the packages lpips and torchvision ({error}): "
                "pip install 'robustmed_monai[perceptual]', or use perceptual='encoder', which needs neither."
            ) from error
        backbone = _BACKBONES[net][0]
        if weights_path is None:
            name = Path(torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"].url).name
            weights_path = Path(torch.hub.get_dir()) / "checkpoints" / name
        state = _read_backbone(backbone, weights_path)
        model: Any = lpips.LPIPS(net=net, spatial=True, pnet_rand=True, verbose=False)
    # "slice2.3.weight" of lpips is "features.3.weight" of torchvision
    wanted = {key: "features." + key.split(".", 1)[1] for key in model.net.state_dict()}
    try:
        model.net.load_state_dict({key: state[theirs] for key, theirs in wanted.items()})
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{weights_path} does not hold the weights of {backbone}: {error}") from error
    module: nn.Module = model.eval().requires_grad_(False)
    return module


def _read_backbone(backbone: str, path: Path) -> dict[str, Tensor]:
    """State dict of a torchvision network, checked before and after it is read."""
    if not path.is_file():
        raise WeightsError(
            f"perceptual='lpips' needs torchvision's ImageNet weights of {backbone}: {path} is not there. "
            "Nothing is downloaded here; where there is a network, run\n"
            f"  python -c \"import torchvision; torchvision.models.{backbone}(weights='IMAGENET1K_V1')\"\n"
            "and copy the file from its ~/.cache/torch/hub/checkpoints to that path, or give its place as "
            "weights_path. perceptual='encoder' needs no such file."
        )
    expected = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    if expected and not sha256(path).startswith(expected[1]):
        raise WeightsError(
            f"{path} is damaged or was altered: its sha256 does not begin with {expected[1]}. "
            "Delete it and fetch it again."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path} cannot be read as PyTorch weights: {error}") from error
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__} instead of the weights of {backbone}.")
    return state
