"""Matrices of weights in 8 bits: whole numbers from -127 to 127, and one scale for each row."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from robustmed_monai.utils.errors import WeightsError

SCALE = "_scale"  # after the name of a matrix, the name of its scales
LARGEST = 127


def row_scales(matrix: Tensor) -> Tensor:
    """Scales (rows,) with which the largest weight of each row becomes 127; 1 for a row of zeros.

    Args:
        matrix: weights (rows, columns).
    """
    largest = matrix.abs().amax(1) / LARGEST
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def rounded_for(matrix: Tensor, inputs: Tensor, damping: float = 0.01) -> Tensor:
    """Round a matrix to 8 bits so that its products with given inputs change as little as they can.

    Column after column is rounded, and what the rounding changes in the products is taken back by the columns
    that are still to come, as far as the inputs go together.

    Args:
        matrix: weights (rows, columns) of a linear layer.
        inputs: what the layer is given (N, columns).
        damping: added to the diagonal of the inputs' second moments, as a share of its mean.

    Returns:
        Whole numbers (rows, columns), int8; times ``row_scales(matrix)`` they are the weights.

    Source: GPTQ (Frantar et al., ICLR 2023, arXiv 2210.17323), without its groups and lazy updates.

    Example:
        >>> rounded_for(torch.tensor([[1.27, 0.306]]), torch.eye(2)).tolist()
        [[127, 31]]
    """
    moments = inputs.double().T @ inputs.double()
    moments += damping * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    steps = torch.linalg.cholesky(inverse, upper=True).to(matrix.dtype)
    scales, left = row_scales(matrix), matrix.clone()
    rounded = torch.zeros_like(matrix)
    for column in range(matrix.shape[1]):
        rounded[:, column] = (left[:, column] / scales).round().clamp(-LARGEST, LARGEST)
        error = (left[:, column] - rounded[:, column] * scales) / steps[column, column]
        left[:, column:] -= error[:, None] * steps[column, column:]
    return rounded.to(torch.int8)


def restored(weights: Mapping[str, Tensor], path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Multiply the matrices that are stored in 8 bits by their scales, and leave the scales out.

    Args:
        weights: name to tensor as a file has them; ``<name>`` is in 8 bits where it is int8 and there is a
            ``<name>_scale`` (rows,).
        path: the file, for messages.

    Raises:
        WeightsError: when there are not as many scales as rows.

    Example:
        >>> stored = {"a": torch.tensor([[127, -64]], dtype=torch.int8), "a_scale": torch.tensor([0.5])}
        >>> restored(stored, "model.pt")
        {'a': tensor([[ 63.5000, -32.0000]])}
    """
    scaled = {name for name, tensor in weights.items() if tensor.dtype == torch.int8}
    scaled = {name for name in scaled if name + SCALE in weights}
    found = {}
    for name, tensor in weights.items():
        if name in scaled:
            scale = weights[name + SCALE]
            if scale.shape != tensor.shape[:1]:
                raise WeightsError(
                    f"{path}: '{name}' {tuple(tensor.shape)} has scales {tuple(scale.shape)}, give one "
                    "for each row; export it again."
                )
            found[name] = tensor * scale.view(-1, *[1] * (tensor.ndim - 1))
        elif not (name.endswith(SCALE) and name.removesuffix(SCALE) in scaled):
            found[name] = tensor
    return found
