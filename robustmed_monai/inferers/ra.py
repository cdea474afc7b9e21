"""RA's anomaly map: where an image differs from its own pseudo-healthy reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.inferers.inferer import Inferer
from monai.networks.utils import eval_mode
from torch import nn

from robustmed_monai.inferers.perceptual import images_at_once, perceptual_backend
from robustmed_monai.inferers.slicewise import assessed, map_maximum, slice_places, slice_title
from robustmed_monai.transforms.blur import gaussian_blur
from robustmed_monai.transforms.clahe import equalize_adapthist
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError, NonFiniteImageError
from robustmed_monai.visualize.sheets import anomaly_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def residual_map(image: torch.Tensor, pseudo_healthy: torch.Tensor) -> torch.Tensor:
    """R = |x_ph - x|, the mean over channels: two (B, C, X, Y) to (B, 1, X, Y)."""
    difference: torch.Tensor = (pseudo_healthy - image).abs().mean(1, keepdim=True)
    return difference


def perceptual_product(
    pairs: list[tuple[torch.Tensor, torch.Tensor]], distance: Perceptual, sigma: float
) -> torch.Tensor:
    """S = product over pairs of the blurred perceptual difference.

    Args:
        pairs: (pseudo-healthy, image) pairs, each (B, C, X, Y) in [0, 1].
        distance: perceptual difference of two batches, (B, 1, X, Y), not negative.
        sigma: standard deviation in pixels of the Gaussian that smooths each difference.

    Returns:
        (B, 1, X, Y), not negative.
    """
    # One pass for all pairs: small networks leave a GPU idle.
    first, second = (torch.cat(side) for side in zip(*pairs, strict=True))
    blurred = gaussian_blur(distance(first, second), sigma)
    product: torch.Tensor = blurred.unflatten(0, (len(pairs), -1)).prod(0)
    return product


def image_score(maps: torch.Tensor, reduction: str = "mean", top: float = 0.01) -> torch.Tensor:
    """One anomaly score per image.

    Args:
        maps: anomaly maps (B, 1, X, Y).
        reduction: "mean" over all pixels (as published), "max", or "top": the mean of the largest share
            ``top``.
        top: share of the pixels, in (0, 1].

    Returns:
        Scores (B,).

    Raises:
        ConfigError: for an unknown reduction.

    Example:
        >>> image_score(torch.tensor([[[[0.0, 1.0]]]]))
        tensor([0.5000])
    """
    flat = maps.flatten(1)
    if reduction == "mean":
        return flat.mean(1)
    if reduction == "max":
        return flat.amax(1)
    if reduction == "top":
        return flat.topk(max(1, round(top * flat.shape[1])), dim=1).values.mean(1)
    raise ConfigError(f"reduction={reduction!r} is unknown; use 'mean', 'max' or 'top'.")


class AnomalyMapInferer(Inferer):
    """Applies a trained auto-encoder and compares its reconstruction with the image: A = R * S.

    R is the residual of the CLAHE-equalised images and S = P(x_ph, x) * P(q(x_ph), q(x)) the product of
    smoothed perceptual differences. Each factor can be switched off; with ``equalize=False,
    perceptual="none"`` the map is |x - x_ph|, the one that the papers use for AE, VAE and SI-VAE. The map is
    never normalised, so values of different images compare.

    Args:
        equalize: take the residual of CLAHE-equalised images.
        perceptual: "encoder" (the network's own features, works offline), "lpips" (extra `perceptual`), or
            "none".
        perceptual_equalized: multiply by the perceptual difference of the equalised images as well.
        residual: multiply by the residual; False leaves the perceptual factor alone.
        sigma: standard deviation in pixels of the Gaussian on each perceptual difference.
        layers: embeddings that "encoder" compares. The default leaves out the stem, which sees little more
            than pixels, and the coarse ones: chosen on IXI validation slices with drawn lesions (RA, seed 0,
            none of them test slices), where it gave pixel AP .357 and AUROC .675 against .326 and .656 with
            all five.
        weights_path: backbone weights for "lpips".

    Raises:
        ConfigError: when every factor is switched off.

    Source: RA, arXiv 2401.10637, section on the anomaly score.
    """

    def __init__(
        self,
        equalize: bool = True,
        perceptual: str = "encoder",
        perceptual_equalized: bool = True,
        residual: bool = True,
        sigma: float = 2.0,
        layers: Sequence[int] | None = (1, 2),
        weights_path: str | None = None,
    ) -> None:
        super().__init__()
        if not residual and perceptual == "none":
            raise ConfigError(
                "residual=False and perceptual='none' leave no factor of the anomaly map; keep one."
            )
        self.equalize = equalize
        self.perceptual = perceptual
        self.perceptual_equalized = perceptual_equalized
        self.residual = residual
        self.sigma = sigma
        self.layers = layers
        self.weights_path = weights_path
        # LPIPS is the same for every network, so it is built once; the encoder's features belong to the
        # network.
        self._fixed = (
            perceptual_backend(perceptual, weights_path=weights_path) if perceptual == "lpips" else None
        )

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Reconstruct and compare, in evaluation mode, on a CPU a few images at a time.

        Args:
            inputs: images (B, C, X, Y) in [0, 1], see ``unit_range``.
            network: image to pseudo-healthy image, or to a tuple that starts with it, as MONAI's
                VarAutoEncoder, AutoencoderKL and VQVAE do; for ``perceptual="encoder"`` it must have an
                `encoder` with `features`.
            args: passed on to the network, the same for all images.
            kwargs: passed on to the network, the same for all images.

        Returns:
            "pred", the pseudo-healthy images, and "anomaly_map" (B, 1, X, Y), both float32.

        Raises:
            ImageError: when the images are not in [0, 1].
            ConfigError: when the network gives no image of the same shape.
            NonFiniteImageError: when it gives NaN or infinite values.
        """
        image = unit_range(torch.as_tensor(inputs), "AnomalyMapInferer").float()
        preds, maps = [], []
        modules = [network] if isinstance(network, nn.Module) else []
        with eval_mode(*modules):
            for part in image.split(images_at_once(image)):
                preds.append(_reconstruction(network(part, *args, **kwargs), part).clamp(0, 1))
                maps.append(self.compare(part, preds[-1], network))
        return {"pred": torch.cat(preds), "anomaly_map": torch.cat(maps)}

    @torch.no_grad()
    def compare(self, image: torch.Tensor, pseudo_healthy: torch.Tensor, network: Any = None) -> torch.Tensor:
        """Anomaly map (B, 1, X, Y) of images and their pseudo-healthy versions (B, C, X, Y) in [0, 1]."""
        plain = (pseudo_healthy, image)
        use_equalized = self.equalize or (self.perceptual != "none" and self.perceptual_equalized)
        equalized = self._equalized_pair(*plain) if use_equalized else plain
        result = torch.ones_like(image[:, :1])
        if self.residual:
            result = result * residual_map(*(equalized if self.equalize else plain))
        distance = self._fixed or perceptual_backend(
            self.perceptual, encoder=getattr(network, "encoder", None), layers=self.layers
        )
        if distance is not None:
            pairs = [plain, equalized] if self.perceptual_equalized else [plain]
            result = result * perceptual_product(pairs, distance, self.sigma)
        return result

    @staticmethod
    def _equalized_pair(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = equalize_adapthist(torch.cat([first, second]))
        return both[: len(first)], both[len(first) :]


def _reconstruction(output: Any, image: torch.Tensor) -> torch.Tensor:
    """The image among a network's outputs, float32."""
    first = output[0] if isinstance(output, tuple | list) and len(output) else output
    if not isinstance(first, torch.Tensor) or first.shape != image.shape:
        found = tuple(first.shape) if isinstance(first, torch.Tensor) else type(first).__name__
        raise ConfigError(
            f"the network gives {found} for images {tuple(image.shape)}; give one that reconstructs images."
        )
    if not bool(torch.isfinite(first).all()):
        raise NonFiniteImageError("the network gives NaN or infinite values; check its weights.")
    return first.float()


def slice_scores(output: Mapping[str, Any], reduction: str = "mean") -> torch.Tensor:
    """Anomaly score (S,) of each slice of a FileEvaluator's output, see ``image_score``."""
    maps: torch.Tensor = output["network_space"]["anomaly_map"].as_subclass(torch.Tensor)
    return image_score(maps.movedim(-1, 0), reduction)


def anomaly_report(
    output: Mapping[str, Any], threshold: float, fpr: float, reduction: str = "mean"
) -> dict[str, Any]:
    """What ``scores.json`` says about an image.

    Args:
        output: of a FileEvaluator whose inferer makes anomaly maps, after ``OODSlicesd``.
        threshold: value of the map from which on the mask is 1.
        fpr: rate among healthy pixels that the threshold stands for.
        reduction: what of its map is a slice's score, see ``image_score``.

    Returns:
        `score` (mean over the slices in distribution, None where there is none), `assessed` (how many these
        are), `map_maximum` (highest value of the map in these, 0 without any), `anomalous_voxels`,
        `threshold`, `threshold_fpr` and, per filled slice, `slice`, `score` (None for one out of
        distribution) and `warnings`.
    """
    reasons, scores, places = output["ood_reasons"], slice_scores(output, reduction), slice_places(output)
    kept = assessed(output)
    return {
        "score": float(scores[kept].mean()) if kept else None,
        "assessed": len(kept),
        "map_maximum": map_maximum(output, kept),
        "anomalous_voxels": int(output["anomaly_mask"].sum()),
        "threshold": threshold,
        "threshold_fpr": fpr,
        "slices": [
            {"slice": i, **places[i], "score": float(scores[i]) if i in kept else None, "warnings": sentences}
            for i, sentences in reasons.items()
        ],
    }


def worst_slices(
    output: Mapping[str, Any],
    vmax: float,
    threshold: float | None = None,
    count: int = 6,
    reduction: str = "mean",
) -> Figure | None:
    """Sheet of the slices with the highest scores of a FileEvaluator's output, its warnings across the top.

    Args:
        output: with `image`, `anomaly_map` and maybe `pred` and `mask` in its `network_space`, after
            ``OODSlicesd``; slices out of distribution are not shown.
        vmax: see ``anomaly_sheet``.
        threshold: see ``anomaly_sheet``.
        count: number of slices.
        reduction: see ``anomaly_report``.

    Returns:
        The figure, or None where no slice was assessed.
    """
    scores = slice_scores(output, reduction)
    worst = sorted(assessed(output), key=lambda i: -float(scores[i]))[:count]
    if not worst:
        return None
    keys = ("image", "pred", "anomaly_map", "mask")
    space = output["network_space"]
    shown = [torch.as_tensor(space[k]).movedim(-1, 0)[worst] if k in space else None for k in keys]
    image, pred, maps, mask = shown
    if image is None or maps is None:
        raise ConfigError(f"sheet: needs image and anomaly_map; the output has {sorted(space)}.")
    places = slice_places(output)
    titles = [f"{slice_title(places[i], i)}\nscore {float(scores[i]):.4f}" for i in worst]
    note = "; ".join(output["warnings"]) or None
    return anomaly_sheet(image, pred, maps, mask, titles, vmax, threshold, note)
