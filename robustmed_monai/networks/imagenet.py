"""ImageNet weights for 2-D ResNets: by path, or by download when asked; verified before they are read."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn

from robustmed_monai.utils.errors import WeightsError
from robustmed_monai.utils.files import sha256
from robustmed_monai.utils.weights import load_weights

URL = "https://download.pytorch.org/models/"
# The publisher puts the first eight digits of the sha256 into the file's name.
FILES = {18: "resnet18-f37072fd.pth", 34: "resnet34-b627a593.pth", 50: "resnet50-0676ba61.pth"}

log = logging.getLogger(__name__)


def load_imagenet(
    network: nn.Module,
    depth: int,
    path: str | os.PathLike[str] | None = None,
    download: bool = False,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Put ImageNet weights into a ResNet, or into the trunk of a RotNet or GroupPooledResNet.

    What has another shape keeps its own start: the last layer, and the first one of a small stem. A first
    layer for grey images gets the sum over the colours, which is what three equal channels would give.

    Args:
        network: from ``resnet2d``, RotNet or GroupPooledResNet, with width 1.
        depth: 18, 34 or 50.
        path: the official file; None takes the one in torch's cache, or trains from scratch.
        download: fetch the file into torch's cache when it is not there.
        device: where the network goes; None leaves it where it is.

    Returns:
        The network. Without ``path`` and ``download`` it is unchanged.

    Raises:
        WeightsError: when the file is missing, altered, cannot be fetched, or does not fit the network.
    """
    if device is not None:
        network = network.to(device)
    if path is None and not download:
        return network
    if depth not in FILES:
        raise WeightsError(f"depth={depth} has no ImageNet weights here; choose one of {list(FILES)}.")
    file = Path(path) if path is not None else _fetched(depth)
    found = sha256(file) if file.is_file() else ""
    expected = FILES[depth].rsplit("-", 1)[1].removesuffix(".pth")
    if found and not found.startswith(expected):
        raise WeightsError(
            f"{file}: was altered or is another file: its sha256 {found} does not begin with {expected} "
            f"(official {FILES[depth]}); fetch it again from {URL}{FILES[depth]}."
        )
    weights = load_weights(file, expected_sha256=found or None)
    _fill(getattr(network, "trunk", network), weights, file)
    return network


def _fill(trunk: nn.Module, weights: dict[str, torch.Tensor], file: Path) -> None:
    own = trunk.state_dict()
    first = own["conv1.weight"]
    if first.shape[1] == 1 and weights["conv1.weight"].shape[1] == 3:
        weights["conv1.weight"] = weights["conv1.weight"].sum(1, keepdim=True)
    taken = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    missing = [k for k in own if k.startswith("layer") and k not in taken]
    if missing:
        raise WeightsError(
            f"{file}: does not fit {type(trunk).__name__}: {', '.join(missing[:3])}; use the same depth and "
            "width 1."
        )
    left = sorted(set(own) - set(taken))
    log.info("%s: %d tensors taken; from scratch: %s", file, len(taken), ", ".join(left) or "none")
    trunk.load_state_dict(taken, strict=False)


def _fetched(depth: int) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / FILES[depth]
    if file.is_file():
        return file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL + FILES[depth], str(file), progress=False)
    except (OSError, URLError) as error:
        raise WeightsError(
            f"{URL}{FILES[depth]}: cannot be fetched ({error}); without a network bring the file here and "
            "give its path, or leave both out to train from scratch."
        ) from error
    return file
