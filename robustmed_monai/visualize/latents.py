"""What the codes of a VAE stand for: images of codes drawn at random, and of codes changed one by one."""

from __future__ import annotations

import torch
from torch import nn

from robustmed_monai.networks.pchvae import HierarchicalVAE, Posterior

Columns = dict[str, torch.Tensor]


@torch.no_grad()
def latent_pictures(
    network: nn.Module, image: torch.Tensor, count: int = 6, seed: int = 0
) -> dict[str, Columns]:
    """Samples and traversals.

    Args:
        network: a HierarchicalVAE; any other gives nothing.
        image: (1, C, X, Y) to start the traversals from.
        count: samples, and entries of each code that are changed: those with the largest KL, which say most.
        seed: seed of the samples.

    Returns:
        "samples" and "traversals" to columns for ``image_grid``. Samples: codes drawn from N(0, 1), all new,
        only the high-level or only the low-level one (the other is the image's). Traversals: one entry set
        to -3, -1.5, 0, 1.5 and 3.
    """
    if not isinstance(network, HierarchicalVAE):
        return {}
    network.eval()
    codes = {k: v for k, v in network.components(image).codes.items() if isinstance(v, Posterior)}
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: torch.randn(count, *code.mean.shape[1:], generator=generator).to(image.device)
        for name, code in codes.items()
    }
    kept = {name: code.mean.expand(count, -1, -1, -1) for name, code in codes.items()}
    samples = {"sample": _decoded(network, drawn)}
    if len(codes) > 1:
        samples |= {f"new {name} code": _decoded(network, {**kept, name: drawn[name]}) for name in codes}
    traversals: Columns = {}
    for name, code in codes.items():
        kl = 0.5 * (code.mean.square() + code.logvar.exp() - 1 - code.logvar).flatten()
        entries = kl.topk(min(count, len(kl))).indices
        for value in (-3.0, -1.5, 0.0, 1.5, 3.0):
            moved = code.mean.flatten().repeat(len(entries), 1)
            moved[torch.arange(len(entries)), entries] = value
            fixed = {k: v.mean.expand(len(entries), -1, -1, -1) for k, v in codes.items()}
            fixed[name] = moved.view(len(entries), *code.mean.shape[1:])
            traversals[f"{name} {value:+g}"] = _decoded(network, fixed)
    return {"samples": samples, "traversals": traversals}


def _decoded(network: HierarchicalVAE, codes: dict[str, torch.Tensor]) -> torch.Tensor:
    return network.decode(codes.get("high"), codes.get("low"))
