"""Weights of a network made of parts: several files joined into one, and one part taken out again."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import nn

from robustmed_monai.utils.errors import WeightsError
from robustmed_monai.utils.weights import load_info, load_into, load_weights, save_weights


def join_weights(
    parts: Mapping[str, str | os.PathLike[str]], path: str | os.PathLike[str]
) -> dict[str, object]:
    """Write the weights of several networks into one file, for a network that holds them as submodules.

    Args:
        parts: name of the submodule to its weights file.
        path: file to write; its ``info`` holds that of the parts by name.

    Returns:
        The ``info``.

    Raises:
        WeightsError: when a file is missing or altered.
    """
    joined = {
        f"{name}.{key}": tensor for name, file in parts.items() for key, tensor in load_weights(file).items()
    }
    info: dict[str, object] = {name: load_info(file) for name, file in parts.items()}
    save_weights(joined, path, info)
    return info


def load_part(network: nn.Module, path: str | os.PathLike[str], part: str) -> nn.Module:
    """Load a network from its own weights file, or from one that holds it as a part.

    Args:
        network: the network of the part.
        path: weights file, of the part alone or written by ``join_weights``.
        part: name of the part.

    Returns:
        The network.

    Raises:
        WeightsError: when the file is missing, altered or does not fit.
    """
    weights = load_weights(path)
    prefix = f"{part}."
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    if not own:
        return load_into(network, path)
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    wrong = sorted(k for k in own.keys() | shapes.keys() if k not in own or shapes.get(k) != own[k].shape)
    if wrong:
        raise WeightsError(
            f"{path}: its part '{part}' does not fit {type(network).__name__} ({', '.join(wrong[:3])}); "
            "build the network with the settings that the weights were trained with."
        )
    network.load_state_dict(own)
    return network


def part_info(path: str | os.PathLike[str], part: str) -> dict[str, object]:
    """What is known of a part of a weights file, or of the file when it holds the part alone.

    Raises:
        WeightsError: when the file is missing or altered.
    """
    info = load_info(path)
    own = info.get(part)
    return dict(own) if isinstance(own, dict) else info
