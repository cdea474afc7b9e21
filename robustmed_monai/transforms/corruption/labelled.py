"""Other contrasts of an image whose tissue labels are known: painted, or inverted inside of the brain."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustmed_monai.transforms.contrasts import T2_MEANS, brain_mask, head_classes, invert, tissue_contrast
from robustmed_monai.transforms.corruption.core import Corruption, check_name, check_severity, identity
from robustmed_monai.transforms.params import Params, Shape, per_image
from robustmed_monai.utils.errors import ConfigError

LABELLED: tuple[str, ...] = ("inverted_inside", "painted_t2")
_AMOUNTS = (0.2, 0.4, 0.6, 0.8, 1.0)
_TISSUES = 4


def labelled(name: str, severity: int) -> Corruption:
    """A contrast made from labels, blended in by 0.2, 0.4, 0.6, 0.8 or 1.

    Args:
        name: one of ``LABELLED``: "inverted_inside" is 1 - x where a label is, "painted_t2" a T2-like image
            of the labels and the head around them, see ``transforms.contrasts``.
        severity: 1 to 5, or 0 for the identity.

    Returns:
        A corruption whose parameters need `labels` (B, 1, *spatial): 0 background, 1 CSF, 2 grey matter,
        3 white matter for the painted one; ``CorruptionSuite.apply`` takes them.

    Raises:
        ConfigError: for an unknown name or severity, and when it is applied without labels.
    """
    check_name(name, LABELLED, "the contrasts of labelled images")
    check_severity(severity, name)
    if severity == 0:
        return identity(name)
    return Corruption(name, partial(_sample, _AMOUNTS[severity - 1]), partial(_blend, name), (2, 3))


def _sample(amount: float, shape: Shape, generator: torch.Generator) -> Params:
    seeds = torch.randint(2**62, (shape[0],), generator=generator)
    return {"seed": seeds, "amount": torch.full((shape[0],), amount)}


def _blend(name: str, images: Tensor, params: Params) -> Tensor:
    if "labels" not in params:
        raise ConfigError(f"{name}: is made from labels; give some, or leave it out of the suite.")
    labels = params["labels"]
    if name == "inverted_inside":
        other = invert(images, brain_mask(labels))
    else:
        if int(labels.max()) >= _TISSUES or images.shape[1] != 1:
            raise ConfigError(
                f"{name}: labels up to {int(labels.max())} and {images.shape[1]} channel(s); it takes one "
                "channel and 0 background, 1 CSF, 2 grey matter, 3 white matter."
            )
        other = torch.cat(
            [
                _painted(image, label, int(seed))
                for image, label, seed in zip(images.split(1), labels.split(1), params["seed"], strict=True)
            ]
        ).to(images)
    return images + per_image(params["amount"], images) * (other - images)


def _painted(image: Tensor, label: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return tissue_contrast(head_classes(image, label, _TISSUES), T2_MEANS, generator)
