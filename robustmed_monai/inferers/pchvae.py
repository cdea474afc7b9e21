"""Scores and pixel maps of VAEs (and VQVAE-2): how well an image is explained, as a whole and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from monai.inferers.inferer import Inferer
from monai.networks.utils import eval_mode

from robustmed_monai.inferers.perceptual import images_at_once
from robustmed_monai.inferers.slicewise import assessed, map_maximum, slice_places, slice_title
from robustmed_monai.losses.pchvae import code_cost, negative_log_likelihood
from robustmed_monai.networks.pchvae import Components
from robustmed_monai.transforms.blur import gaussian_blur
from robustmed_monai.utils.errors import ConfigError, ImageError
from robustmed_monai.visualize.grids import image_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPS = ("residual", "low", "gradient", "product")


def scores(image: torch.Tensor, found: Components, variance: float = 1.0) -> dict[str, torch.Tensor]:
    """Anomaly scores of images from the components that posterior means give; higher is more abnormal.

    Args:
        image: (B, C, X, Y).
        found: its components.
        variance: c of the likelihood, as in training.

    Returns:
        Each (B,): "elbo", the negative bound S(x - x_sum) + KL(z1) + KL(z2) with weights of 1 (neither the
        primary nor the zero term belongs to it); "reconstruction", its first part; "kl", the rest (VQVAE-2:
        the commitment); "high", S(x - x_high) + KL(z1), only where the model has an x_high.
    """
    costs = {name: code_cost(code) for name, code in found.codes.items()}
    error = negative_log_likelihood(image, found.total, variance)
    kl = torch.stack(list(costs.values())).sum(0)
    result = {"elbo": error + kl, "reconstruction": error, "kl": kl}
    if found.high is not None:
        result["high"] = negative_log_likelihood(image, found.high, variance) + costs["high"]
    return result


def gradient_maps(
    image: torch.Tensor, find: Callable[[torch.Tensor], Components], variance: float = 1.0, sigma: float = 2.0
) -> dict[str, torch.Tensor]:
    """Maps by what the score's gradient says of each pixel.

    Args:
        image: (B, C, X, Y).
        find: image to components.
        variance: c of the likelihood.
        sigma: standard deviation in pixels of the Gaussian that smooths the product.

    Returns:
        "gradient", |d ELBO / d x|, and "product", the blurred product of |d KL / d x| and the squared
        residual, each the mean over channels (B, 1, X, Y).

    Source: Zimmerer et al., arXiv 1812.05941 and the protocol of their brain experiments, where the product
        of the KL's gradient and the reconstruction error does best.
    """
    with torch.enable_grad():
        x = image.detach().requires_grad_()
        found = find(x)
        each = scores(x, found, variance)
        kl = torch.autograd.grad(each["kl"].sum(), x, retain_graph=True)[0]
        error = torch.autograd.grad(each["reconstruction"].sum(), x)[0]
    residual = (image - found.total.detach()).square()
    return {
        "gradient": (kl + error).abs().mean(1, keepdim=True),
        "product": gaussian_blur((kl.abs() * residual).mean(1, keepdim=True), sigma),
    }


class ElboInferer(Inferer):
    """Applies a HierarchicalVAE or VQVAE2: components, scores and pixel maps, all of posterior means.

    Args:
        maps: which of "residual" (|x - x_sum|), "low" (x_low, signed), "gradient" and "product" (see
            ``gradient_maps``; these take a backward pass).
        anomaly_map: the map that is "the" anomaly map; a signed one by its size.
        variance: c of the likelihood, as in training.
        sigma: standard deviation in pixels of the Gaussian that smooths "product".
        clip: bound of the images on both sides, that of ``BrainZScored``; None: they have none.

    Raises:
        ConfigError: for an unknown map.
    """

    def __init__(
        self,
        maps: tuple[str, ...] | list[str] = ("residual",),
        anomaly_map: str = "residual",
        variance: float = 1.0,
        sigma: float = 2.0,
        clip: float | None = 1.5,
    ) -> None:
        super().__init__()
        unknown = [name for name in (*maps, anomaly_map) if name not in MAPS]
        if unknown:
            raise ConfigError(f"maps: found {unknown}; choose of {list(MAPS)}.")
        self.maps = tuple(dict.fromkeys((*maps, anomaly_map)))
        self.anomaly_map = anomaly_map
        self.variance = variance
        self.sigma = sigma
        self.clip = clip

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Decompose and score, in evaluation mode, on a CPU a few images at a time.

        Args:
            inputs: images (B, C, X, Y) in the units of training, floating: z-scores.
            network: with ``components``.
            args: part of MONAI's signature, not used.
            kwargs: part of MONAI's signature, not used.

        Returns:
            "pred" (x_sum), "high" and "low" (as far as the model has them), "score_<name>" (B,) for each of
            ``scores``, "map_<name>" and "anomaly_map" (B, 1, X, Y) not negative but for "map_low". A model
            without a low image beside a high one gives no "map_low"; where that is the anomaly map, it is 0.

        Raises:
            ImageError: when the images are whole numbers, or leave -clip to clip.
        """
        image = self._checked(torch.as_tensor(inputs))
        model: Any = network
        with eval_mode(model):
            parts = [self._judge(part, model) for part in image.split(images_at_once(image))]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _checked(self, image: torch.Tensor) -> torch.Tensor:
        bound = float("inf") if self.clip is None else self.clip * 1.01
        largest = float(image.abs().amax()) if image.is_floating_point() and image.numel() else 0.0
        if not image.is_floating_point() or not largest <= bound:
            raise ImageError(
                f"ElboInferer: {image.dtype} up to {largest:.4g}; give z-scores, as BrainZScored makes, "
                "or clip=None for images in the units of a network of your own."
            )
        return image.as_subclass(torch.Tensor).float()

    def _judge(self, image: torch.Tensor, network: Any) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            found: Components = network.components(image)
        result = {"pred": found.total}
        result |= {k: v.float() for k, v in (("high", found.high), ("low", found.low)) if v is not None}
        result |= {f"score_{k}": v for k, v in scores(image, found, self.variance).items()}
        maps: dict[str, torch.Tensor] = {}
        if "residual" in self.maps:
            maps["residual"] = (image - found.total).abs().mean(1, keepdim=True)
        if "low" in self.maps and found.high is not None and found.low is not None:
            maps["low"] = found.low.float().mean(1, keepdim=True)
        if {"gradient", "product"} & set(self.maps):
            made = gradient_maps(image, network.components, self.variance, self.sigma)
            maps |= {name: made[name] for name in made if name in self.maps}
        result |= {f"map_{name}": value for name, value in maps.items()}
        result["anomaly_map"] = maps.get(self.anomaly_map, torch.zeros_like(image[:, :1])).abs()
        return result


def elbo_report(
    output: Mapping[str, Any], threshold: float | None = None, fpr: float | None = None
) -> dict[str, Any]:
    """What ``scores.json`` says about an image.

    Args:
        output: of a FileEvaluator with a slicewise ElboInferer, after ``OODSlicesd``.
        threshold: value of the anomaly map from which on the mask is 1; None where there is no mask.
        fpr: rate among healthy pixels of brains that the threshold stands for.

    Returns:
        `scores` by name (means over the slices in distribution, None where there is none), `assessed` (how
        many these are), per slice that holds brain its number, scores (None out of distribution) and
        `warnings`, `map_maximum` (highest value of the map in the assessed slices, 0 without any); with a
        threshold also `anomalous_voxels`, `threshold` and `threshold_fpr`.
    """
    reasons, scores, places = output["ood_reasons"], slice_scores(output), slice_places(output)
    kept = assessed(output)
    slices = [
        {
            "slice": i,
            **places[i],
            **{k: float(v[i]) if i in kept else None for k, v in scores.items()},
            "warnings": why,
        }
        for i, why in reasons.items()
    ]
    report = {
        "scores": {k: float(v[kept].mean()) if kept else None for k, v in scores.items()},
        "assessed": len(kept),
        "map_maximum": map_maximum(output, kept),
        "slices": slices,
    }
    if threshold is None:
        return report
    mask = {"anomalous_voxels": int(output["anomaly_mask"].sum()), "threshold": threshold}
    return {**report, **mask, "threshold_fpr": fpr}


def component_sheet(
    output: Mapping[str, Any], clip: float = 1.5, vmax: float = 1.0, count: int = 6
) -> Figure | None:
    """The slices with the highest negative bounds: input, components, anomaly map; warnings across the top.

    Args:
        output: see ``elbo_report``.
        clip: bound of the z-scores, the ends of the greys.
        vmax: value of the anomaly map that is white.
        count: number of slices.

    Returns:
        The figure, or None where no slice was assessed.
    """
    scores = slice_scores(output)["elbo"]
    worst = sorted(assessed(output), key=lambda i: -float(scores[i]))[:count]
    if not worst:
        return None
    headings = {"image": "input", "high": "x_high", "low": "x_low", "pred": "x_sum"}
    headings["anomaly_map"] = heading_of_map = f"map, white: {vmax:g}"
    space = output["network_space"]
    columns = {
        heading: torch.as_tensor(space[key]).as_subclass(torch.Tensor)[..., worst].movedim(-1, 0)
        for key, heading in headings.items()
        if key in space
    }
    shown = {k: v / vmax if k == heading_of_map else (v + clip) / (2 * clip) for k, v in columns.items()}
    places = slice_places(output)
    rows = [f"{slice_title(places[i], i)}\nscore {float(scores[i]):.0f}" for i in worst]
    return image_grid(shown, rows, "; ".join(output["warnings"]) or None)


def slice_scores(output: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Scores (S,) of each slice by name, NaN where it holds no brain."""
    return {k.removeprefix("score_"): v for k, v in output.items() if k.startswith("score_")}
