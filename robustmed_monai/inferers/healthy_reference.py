"""What a method finds in healthy heads of a site, voxel by voxel of the frame, and maps relative to it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import Inferer

from robustmed_monai.data.split import rank_subjects
from robustmed_monai.transforms.blur import gaussian_blur
from robustmed_monai.transforms.load import read_npz_arrays
from robustmed_monai.utils.errors import ConfigError, DataError, ImageError, ImageShapeError, original_error
from robustmed_monai.utils.files import atomic_path, read_json, sha256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HealthyReference:
    """Mean anomaly map of healthy images of a site.

    Args:
        mean: (X, Y, S), >= 0, smoothed within the slices.
        images: how many of them were assessed.
        file: the npz that holds it.
        sha256: of that file.
    """

    mean: torch.Tensor
    images: int
    file: str
    sha256: str

    def entry(self) -> dict[str, Any]:
        """What the file of a site says of it."""
        return {"file": self.file, "sha256": self.sha256, "images": self.images}


class ReferencedInferer(Inferer):
    """Applies the inferer of a stack and divides its "anomaly_map" by what healthy images show at each place.

    The map A becomes A (1 + f) m / (M + f m) with M the reference, m its mean where it is above 0: it keeps
    its unit, and f bounds what places weigh of which the healthy images show next to nothing.

    Args:
        inferer: called with a stack (1, C, X, Y, S) and the network; returns a dictionary with "anomaly_map".
        reference: of the site; None leaves maps as they are.
        floor: f, above 0.

    Raises:
        ConfigError: for a floor that is not above 0.
    """

    def __init__(
        self, inferer: Callable[..., Any], reference: HealthyReference | None = None, floor: float = 0.5
    ) -> None:
        super().__init__()
        if floor <= 0:
            raise ConfigError(f"floor={floor}: give a number above 0.")
        self.inferer = inferer
        self.reference = reference
        self.floor = floor

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Apply; arguments as those of the inferer.

        Raises:
            ImageShapeError: when the stack does not lie in the frame of the reference.
        """
        found = self.inferer(inputs, network, *args, **kwargs)
        if self.reference is None:
            return found
        maps, mean = found["anomaly_map"], self.reference.mean
        if maps.shape[2:] != mean.shape:
            raise ImageShapeError(
                f"a stack of {tuple(maps.shape[2:])} for a healthy reference of {tuple(mean.shape)}: apply "
                "it to images of the kind that the site was calibrated with, with the same overlays."
            )
        there = mean > 0
        usual = mean[there].mean() if there.any() else mean.new_ones(())
        weight = (1 + self.floor) * usual / (mean + self.floor * usual)
        return {**found, "anomaly_map": maps * weight.to(maps)}


def share_out(files: Sequence[Mapping[str, Any]], share: float, reference: bool) -> list[Mapping[str, Any]]:
    """Images that make the reference, or the others, whose scores calibrate: no image may do both.

    Args:
        files: ``{"image": path}`` of healthy images.
        share: of them that makes the reference, in [0, 1).
        reference: which part.

    Raises:
        ConfigError: when the share is out of range.

    Example:
        >>> files = [{"image": name} for name in "abcd"]
        >>> [len(share_out(files, 0.5, part)) for part in (True, False)]
        [2, 2]
    """
    if not 0 <= share < 1:
        raise ConfigError(f"reference_share={share}: give a number from 0 to below 1.")
    names = [str(item["image"]) for item in files]
    chosen = set(rank_subjects(names, seed=0)[: round(share * len(names))])
    return [item for item, name in zip(files, names, strict=True) if (name in chosen) == reference]


@torch.no_grad()
def make_reference(
    files: Sequence[Mapping[str, Any]],
    preprocessing: Callable[..., Any],
    assess: Callable[..., Any],
    inferer: Callable[..., Any],
    network: torch.nn.Module,
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    sigma: float = 2.0,
) -> HealthyReference | None:
    """Apply a method to healthy images and write the mean of their maps; None for no image.

    Args:
        files: ``{"image": path}`` of healthy images; one that cannot be used is left out, named in the log.
        preprocessing: of a file to its stack in the frame.
        assess: adds ``assessed_slices``, such as ``OODSlicesd``: slices out of distribution do not count.
        inferer: of the stack, without a reference.
        network: trained network.
        path: npz to write.
        device: where the network runs.
        sigma: standard deviation in pixels of the Gaussian that smooths each slice of the mean.

    Raises:
        DataError: when no slice of any image was assessed.
        ImageShapeError: when the stacks differ in shape: a reference needs one frame.
    """
    if not files:
        return None
    # They may keep things for later, and the digest of a site is taken of them as they were given.
    preprocessing, inferer, network = deepcopy((preprocessing, inferer, network.eval()))
    total, count, used = torch.zeros(()), torch.zeros(()), 0
    for item in files:
        try:
            data = preprocessing(dict(item))
        except Exception as error:
            cause = original_error(error)
            if not isinstance(cause, ImageError):
                raise
            logger.error("%s", cause)
            continue
        kept = assess(data)["assessed_slices"]
        stack = torch.as_tensor(data["image"]).as_subclass(torch.Tensor)
        maps = inferer(stack[None].to(device), network)["anomaly_map"][0, 0].cpu()
        if used and maps.shape != total.shape:
            raise ImageShapeError(
                f"{item['image']}: a stack of {tuple(maps.shape)}, others have {tuple(total.shape)}; a "
                "healthy reference needs one frame: --overlay whole_head."
            )
        seen = torch.zeros(maps.shape[-1])
        seen[kept] = 1
        total, count, used = total + maps * seen, count + seen, used + bool(kept)
    if not used:
        raise DataError(f"reference: no slice of {len(files)} images was assessed; see their warnings.")
    mean = gaussian_blur((total / count.clamp(min=1)).movedim(-1, 0)[:, None], sigma)[:, 0].movedim(0, -1)
    known = mean[..., count > 0]
    # Of slices in which no image was assessed nothing is known: maps stay there as they are.
    mean[..., count == 0] = known[known > 0].mean() if (known > 0).any() else 0.0
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, mean=mean.numpy().astype(np.float32), images=np.asarray(used))
    logger.info("%s: healthy reference of %d images", path, used)
    return _read(Path(path))


def load_reference(site: str | os.PathLike[str] | None) -> HealthyReference | None:
    """The reference that the file of a site names, beside that file; None where it names none.

    Args:
        site: file of ``robustmed calibrate``; None for None.

    Raises:
        DataError: when the reference is missing or was changed.
    """
    content = None if site is None else read_json(site)
    entry = content.get("reference") if isinstance(content, Mapping) else None
    if site is None or entry is None:
        return None
    path = Path(site).with_name(Path(str(entry["file"])).name)
    if not path.is_file() or sha256(path) != entry["sha256"]:
        raise DataError(
            f"{path}: the healthy reference of {site} is missing or was changed; keep both files together, "
            "or run `robustmed calibrate` again."
        )
    return _read(path)


def _read(path: Path) -> HealthyReference:
    arrays = read_npz_arrays(path, ("mean", "images"))
    return HealthyReference(torch.from_numpy(arrays["mean"]), int(arrays["images"]), path.name, sha256(path))
