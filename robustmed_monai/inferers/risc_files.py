"""RISC on image files: all slices together, with heat maps, and what is said and shown of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.data import MetaTensor
from monai.inferers.inferer import Inferer
from torch import nn

from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.transforms.rotation import rotate, to_square
from robustmed_monai.transforms.volume_slices import filled_slices, resize_to_square
from robustmed_monai.utils.errors import ImageError
from robustmed_monai.visualize.gradcam import gradcam
from robustmed_monai.visualize.risc import Panel, heatmap_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Above this size the filter of eight rotations takes more memory than a picture to look at is worth.
_FILTERED_SIZE = 128


class StackCorrectionInferer(Inferer):
    """Rotation correction of an image's slices, which are rotated alike, with GradCAM maps of why.

    Args:
        inferer: corrects a batch of slices; with ``pool=True``, since they belong together.
        image_size: side of the classifier's images in pixels.
        layers: layers of the classifier to make heat maps of; the last one is also RotNet's. None makes none.
    """

    def __init__(
        self, inferer: RotationCorrectionInferer, image_size: int = 32, layers: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.inferer = inferer
        self.image_size = image_size
        self.layers = list(layers or ())

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Classify and explain one image.

        Args:
            inputs: square slices (1, C, X, Y, S) in [0, 1], of any size.
            network: classifier, image to class logits.
            args: passed on to the classifier.
            kwargs: passed on to the classifier.

        Returns:
            With a first axis of 1: `pred` (classes,), the mean over the slices; `rotation`, `angle`,
            `confidence`, `abstained` and `posterior` (K,) of all of them; of each of the F slices with
            anything in it `slice`, its index, `slice_pred` and `seen`, what RotNet saw; `upright`
            (C, x, y, S), what the classifier saw, 0 in the other slices; with layers `heat`
            (layers, F, 1, x, y) of the upright slices, `heat_back` of these rotated back, `heat_rotnet`, and
            `heatmap` (1, X, Y, S), that of the last layer.

        Raises:
            ImageError: when all slices are empty.
        """
        filled = filled_slices(inputs[0])
        if not len(filled):
            raise ImageError("the image is empty; there is nothing to classify.")
        slices = to_square(inputs[0].movedim(-1, 0)[filled], self.image_size)
        answer = self.inferer(slices, network, *args, **kwargs)
        found = {key: answer[key][0] for key in ("rotation", "angle", "confidence", "abstained", "posterior")}
        found |= {"pred": answer["pred"].mean(0), "slice": filled, "slice_pred": answer["pred"]}
        upright = slices.new_zeros(inputs.shape[-1], *slices.shape[1:])
        upright[filled] = answer["corrected"]
        found |= {"seen": slices, "upright": upright.movedim(0, -1)}
        if self.layers and isinstance(network, nn.Module):
            found |= self._heat(found, answer["corrected"], network, inputs)
        return {key: value[None] for key, value in found.items()}

    def _heat(
        self,
        found: Mapping[str, torch.Tensor],
        corrected: torch.Tensor,
        network: nn.Module,
        inputs: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        inferer, turns = self.inferer, int(found["rotation"])
        heat = gradcam(network, corrected, self.layers, found["pred"].argmax())
        back = torch.stack([rotate(maps, turns, inferer.num_rotations, inferer.mode) for maps in heat])
        whole = torch.zeros(inputs.shape[-1], 1, *inputs.shape[2:4])
        whole[found["slice"].cpu()] = resize_to_square(back[-1], inputs.shape[2]).clamp(0, 1)
        maps = {"heat": heat, "heat_back": back, "heatmap": whole.movedim(0, -1)}
        if isinstance(inferer.rotnet, nn.Module):
            maps["heat_rotnet"] = gradcam(inferer.rotnet, found["seen"], f"trunk.{self.layers[-1]}")[0]
        return maps


def known_slices(output: Mapping[str, Any]) -> torch.Tensor:
    """Which of the F slices that are not empty ``OODSlicesd`` left in, (F,) bool."""
    mask: torch.Tensor = output["in_distribution"].as_subclass(torch.Tensor)
    return mask.amax((0, 1, 2))[output["slice"]] > 0


def rotate_back(output: Mapping[str, Any], mode: str = "isotropic") -> dict[str, Any]:
    """Turn the image itself, in its own size, as its slices were turned for the classifier.

    Slices out of distribution have no heat map. Where all are, nothing is turned and there is none at all.

    Args:
        output: of a FileEvaluator, after ``OODSlicesd`` of what is `upright`: `image` square slices
            (C, X, Y, S), their `rotation`, the `posterior` of the rotations and, where there is one, the
            `heatmap`.
        mode: see ``rotate``; large images are rotated by 45 degrees by "bilinear".

    Returns:
        The output with `corrected` (C, X, Y[, S]), whose affine says where the slices lie in the source; or
        without it and `heatmap`.
    """
    known = known_slices(output)
    if not known.any():
        return {key: value for key, value in output.items() if key != "heatmap"}
    if "heatmap" in output:
        maps = output["heatmap"].clone()
        maps[..., output["slice"][~known]] = 0
        output = {**output, "heatmap": maps}
    image = output["image"]
    used = mode if image.shape[1] <= _FILTERED_SIZE else "bilinear"
    slices = image.as_subclass(torch.Tensor).movedim(-1, 0)
    upright = rotate(slices, -int(output["rotation"]), len(output["posterior"]), used).movedim(0, -1)
    if len(image.meta["spatial_shape"]) == 2:
        upright = upright[..., 0]
    return {**output, "corrected": MetaTensor(upright, affine=image.affine)}


def class_report(output: Mapping[str, Any], class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """What ``prediction.json`` says about an image.

    Args:
        output: of a FileEvaluator with a StackCorrectionInferer, after ``OODSlicesd`` of what is `upright`.
        class_names: names of the classes; None numbers them.

    Returns:
        `prediction`, `probabilities` by class (their mean over the slices that ``OODSlicesd`` left in),
        `angle` in degrees by which the image is turned back, its `confidence`, whether it `abstained` and
        `angles`, the probability of each, all None where no slice was left; `assessed`, how many were; and
        `slices`, where there are several.
    """
    posterior, each = output["posterior"], output["slice_pred"]
    names = class_names or [f"class {i}" for i in range(each.shape[1])]
    step = 360 / len(posterior)
    kept = known_slices(output)
    pred = each[kept].mean(0) if kept.any() else None
    angles = {f"{k * step:g}": p for k, p in enumerate(_rounded(posterior))}
    slices = [
        {"slice": int(i), "probabilities": _rounded(p) if known else None}
        for i, p, known in zip(output["slice"], each, kept, strict=True)
    ]
    return {
        "prediction": None if pred is None else names[int(pred.argmax())],
        "probabilities": None if pred is None else dict(zip(names, _rounded(pred), strict=True)),
        "assessed": int(kept.sum()),
        "angle": None if pred is None else float(output["angle"]),
        "confidence": None if pred is None else round(float(output["confidence"]), 6),
        "abstained": None if pred is None else bool(output["abstained"]),
        "angles": None if pred is None else angles,
        **({"slices": slices} if len(slices) > 1 else {}),
    }


def correction_sheet(
    output: Mapping[str, Any], layers: Sequence[str] | None = None, max_slices: int = 6
) -> Figure | None:
    """Sheet of the slices as they came and as they were corrected, with the heat maps over them.

    Slices out of distribution are not drawn; where all are, the images stand alone under the warning.

    Args:
        output: of a FileEvaluator with a StackCorrectionInferer.
        layers: names of the layers of its heat maps.
        max_slices: slices of a volume on the sheet.

    Returns:
        The figure, or None without heat maps.
    """
    if "heat" not in output:
        return None
    space, known = output["network_space"], torch.nonzero(known_slices(output)).flatten().tolist()
    note = "; ".join(output["warnings"])
    if not known:
        shown = range(0, len(output["slice"]), -(-len(output["slice"]) // max_slices))
        titles = [f"slice {int(output['slice'][i])}" for i in shown]
        return heatmap_sheet([[Panel(space["seen"][i]) for i in shown]], titles, ["image"], note=note)
    headings = ["image", "RotNet", "corrected"]
    headings += [f"classifier, {name}" for name in layers or ()] + ["rotated back"]
    rows, titles = [], []
    for i in known[:: -(-len(known) // max_slices)]:
        image, corrected = space["seen"][i], space["upright"][..., output["slice"][i]]
        rotnet = space["heat_rotnet"][i] if "heat_rotnet" in space else None
        heat = [Panel(corrected, maps[i]) for maps in space["heat"]]
        rows.append(
            [
                Panel(image),
                Panel(image, rotnet),
                Panel(corrected),
                *heat,
                Panel(image, space["heat_back"][-1, i]),
            ]
        )
        titles.append(f"slice {int(output['slice'][i])}")
    return heatmap_sheet(rows, headings, titles, note=note)


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(float(v), 6) for v in values]
