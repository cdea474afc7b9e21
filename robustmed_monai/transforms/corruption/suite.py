"""Fixed sets of corruptions: what is done to image i of a test set, the same bits for everybody.

The parameters of an image are drawn by a generator of its own, seeded by a hash of the suite's seed, the name
of the corruption and the image's index. They depend neither on the batch around the image nor on the worker
that makes it, and the severity is not in the hash: it scales one and the same pattern.

Images are corrupted in float64 and rounded to 8 bit, so that machines that add up in another order agree.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from monai.utils import convert_to_dst_type, convert_to_tensor
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from torch.utils.data import Dataset

from robustmed_monai.transforms.corruption.acquisition import ACQUISITION, acquisition
from robustmed_monai.transforms.corruption.core import Corruption, check_name, corrupt, ready_images
from robustmed_monai.transforms.corruption.geometry import GEOMETRY, geometry
from robustmed_monai.transforms.corruption.imagenet_c import (
    IMAGENET_C,
    imagenet_c,
    imagenet_c_published,
)
from robustmed_monai.transforms.corruption.labelled import LABELLED, labelled
from robustmed_monai.transforms.corruption.medmnist_c import MEDMNIST_C, medmnist_c
from robustmed_monai.transforms.corruption.mr import MR_ARTIFACTS, mr_artifact
from robustmed_monai.transforms.corruption.orientation import (
    ORIENTATION,
    orientation,
    orientation_affine,
)
from robustmed_monai.transforms.corruption.unoranic import UNORANIC, unoranic_corruption
from robustmed_monai.transforms.params import Params, draw
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.files import read_json, write_json

SEVERITIES = (1, 2, 3, 4, 5)
_BY_SEVERITY: dict[str, Callable[[str, int], Corruption]] = {
    "imagenet_c": imagenet_c,
    "imagenet_c_published": imagenet_c_published,
    "mr": mr_artifact,
    "geometry": geometry,
    "acquisition": acquisition,
    "labelled": labelled,
}
# One kind of each: these have no severities. In "orientation_true" the header tells how the image lies.
_WITHOUT_SEVERITY: dict[str, Callable[[str], Corruption]] = {
    "unoranic": unoranic_corruption,
    "orientation": orientation,
    "orientation_true": orientation,
}
_FAMILIES = (*_BY_SEVERITY, *_WITHOUT_SEVERITY, "medmnist_c")
# Products such as 1.1 * 5 / 255 lie on the border of two grey levels; all go up, whatever their last bit.
_ROUND = 0.5 + 2**-10

Row = Mapping[str, Any]


class Case(NamedTuple):
    """One corruption of a suite.

    Args:
        family: "imagenet_c", "imagenet_c_published", "medmnist_c", "mr", "geometry", "acquisition",
            "labelled", "unoranic", "orientation" or "orientation_true".
        name: of the corruption in its family.
        severity: 0 (identity) to 5; None in the last three families, which have no severities.
        dataset: "pneumoniamnist", ...; of the family medmnist_c only.
    """

    family: str
    name: str
    severity: int | None = None
    dataset: str | None = None

    def __str__(self) -> str:
        parts = (self.family, self.dataset, self.name, self.severity)
        return "/".join(str(part) for part in parts if part is not None)

    def corruption(self) -> Corruption:
        """Make the corruption.

        Raises:
            ConfigError: when the family has no such corruption.
        """
        texts = (self.family, self.name, self.dataset or "")
        if not all(isinstance(text, str) for text in texts) or type(self.severity) not in (int, type(None)):
            raise ConfigError(f"{tuple(self)}: give texts, and a whole number as severity.")
        check_name(self.family, _FAMILIES, "the families")
        if (self.dataset is not None) != (self.family == "medmnist_c"):
            raise ConfigError(
                f"dataset {self.dataset!r}: the family medmnist_c has one, the others have none."
            )
        if self.family in _WITHOUT_SEVERITY:
            if self.severity is not None:
                raise ConfigError(f"severity {self.severity}: the family {self.family} has none.")
            return _WITHOUT_SEVERITY[self.family](self.name)
        if self.severity is None:
            raise ConfigError(f"{self.name}: no severity; give 0 to 5.")
        if self.dataset is not None:
            return medmnist_c(self.dataset, self.name, self.severity)
        return _BY_SEVERITY[self.family](self.name, self.severity)


@dataclass(frozen=True)
class CorruptionSuite:
    """A fixed set of corruptions that a few lines of JSON store.

    Args:
        name: what tables call the suite.
        seed: chooses the draw.
        rows: mappings with "family", "name", "severity" (where the family has some) and "dataset" (medmnist_c
            only). A name and a severity may be lists; the row then stands for every pair of them.

    Raises:
        ConfigError: when a row is damaged or names something unknown; the message says which.

    Example:
        >>> suite = CorruptionSuite.imagenet_c(severities=(1, 5))
        >>> case = suite.cases[1]
        >>> str(case), suite.apply(torch.zeros(2, 1, 28, 28), case).shape
        ('imagenet_c/gaussian_noise/5', torch.Size([2, 1, 28, 28]))
    """

    name: str
    seed: int
    rows: Sequence[Row]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or type(self.seed) is not int:
            raise ConfigError(
                f"suite: name {self.name!r}, seed {self.seed!r}; give a text and a whole number."
            )
        if not isinstance(self.rows, Sequence) or not self.rows:
            raise ConfigError(f"suite '{self.name}': rows {self.rows!r}; give a list with at least one row.")
        _ = self.cases

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """All corruptions of the suite, each once, in the order of its rows."""
        expanded = (_expand(row, f"{self.name}, row {number}") for number, row in enumerate(self.rows))
        return tuple(dict.fromkeys(case for cases in expanded for case in cases))

    @classmethod
    def imagenet_c(
        cls, severities: Sequence[int] = SEVERITIES, seed: int = 0, published: bool = False
    ) -> CorruptionSuite:
        """ImageNet-C's corruptions, see ``imagenet_c.IMAGENET_C``, or as figure 5 of unORANIC has them."""
        family = "imagenet_c_published" if published else "imagenet_c"
        return cls(family, seed, [_row(family, IMAGENET_C, severities)])

    @classmethod
    def medmnist_c(
        cls, dataset: str, severities: Sequence[int] = SEVERITIES, seed: int = 0
    ) -> CorruptionSuite:
        """MedMNIST-C's corruptions of one data set, such as "pneumoniamnist"."""
        check_name(dataset, MEDMNIST_C, "MedMNIST-C's data sets")
        row = _row("medmnist_c", MEDMNIST_C[dataset], severities)
        return cls(f"medmnist_c_{dataset}", seed, [{**row, "dataset": dataset}])

    @classmethod
    def mr(cls, severities: Sequence[int] = SEVERITIES, seed: int = 0) -> CorruptionSuite:
        """The artefacts of magnetic resonance images."""
        return cls("mr", seed, [_row("mr", MR_ARTIFACTS, severities)])

    @classmethod
    def geometry(cls, severities: Sequence[int] = SEVERITIES, seed: int = 0) -> CorruptionSuite:
        """Rotation and inverted contrast."""
        return cls("geometry", seed, [_row("geometry", GEOMETRY, severities)])

    @classmethod
    def unoranic(cls, seed: int = 0) -> CorruptionSuite:
        """The twelve corruptions that unORANIC trains on, each always applied."""
        return cls("unoranic", seed, [{"family": "unoranic", "name": list(UNORANIC)}])

    @classmethod
    def acquisition(cls, severities: Sequence[int] = SEVERITIES, seed: int = 0) -> CorruptionSuite:
        """Field of view, coverage, thick slices, gain and another contrast."""
        return cls("acquisition", seed, [_row("acquisition", ACQUISITION, severities)])

    @classmethod
    def orientation(cls, true: bool = False, seed: int = 0) -> CorruptionSuite:
        """Flips and quarter turns; ``true`` is for those that tell the header of it, see ``Case``."""
        family = "orientation_true" if true else "orientation"
        return cls(family, seed, [{"family": family, "name": list(ORIENTATION)}])

    @classmethod
    def labelled(cls, severities: Sequence[int] = SEVERITIES, seed: int = 0) -> CorruptionSuite:
        """Other contrasts of images whose tissue labels are known."""
        return cls("labelled", seed, [_row("labelled", LABELLED, severities)])

    def apply(
        self,
        images: Tensor,
        case: Case,
        first_index: int = 0,
        eight_bit: bool = True,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Corrupt a batch of consecutive images of a test set.

        Args:
            images: (B, C, X, Y[, Z]), float in [0, 1] or uint8.
            case: one of ``cases``.
            first_index: place of the first image in the test set.
            eight_bit: round to multiples of 1/255, which makes the bits those of any other machine.
            labels: (B, 1, X, Y[, Z]) whole numbers, which the family "labelled" needs.

        Returns:
            Float32 images in [0, 1] on the same device.

        Raises:
            ConfigError: when the case is not one of the suite's.
            ImageError: when the images are not such.
        """
        if case not in self.cases:
            check_name(str(case), [str(known) for known in self.cases], f"the cases of suite '{self.name}'")
        return _replay(images, case.corruption(), case.name, self.seed, first_index, eight_bit, labels)[0]

    def parameters(self, case: Case, shape: Sequence[int], index: int) -> Params:
        """What is drawn for one image, for records.

        Args:
            case: one of ``cases``.
            shape: (C, X, Y[, Z]) of the image.
            index: its place in the test set.
        """
        return draw(case.corruption().sample, shape, [_generator(self.seed, case.name, index)])

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the suite to a file of a few lines."""
        write_json(path, {"name": self.name, "seed": self.seed, "rows": list(self.rows)})

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> CorruptionSuite:
        """Read what ``to_json`` wrote.

        Raises:
            DataError: when the file is missing or not JSON.
            ConfigError: when it is no suite, or a row of it is damaged or unknown.
        """
        content = read_json(path)
        if not isinstance(content, dict) or set(content) != {"name", "seed", "rows"}:
            raise ConfigError(
                f'{path}: no corruption suite; it needs "name", "seed", "rows", and nothing else.'
            )
        try:
            return cls(**content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


class CorruptedDataset(Dataset[dict[str, Any]]):
    """A data set of dictionaries with the image of item i corrupted as a suite says for index i.

    Args:
        dataset: such as MONAI's ``Dataset``; items hold an image (C, X, Y[, Z]) in [0, 1].
        suite: what to do.
        case: one of its cases.
        key: of the image. A MetaTensor's header tells of the cases of "orientation_true", as their name says.
    """

    def __init__(self, dataset: Any, suite: CorruptionSuite, case: Case, key: str = Keys.IMAGE) -> None:
        self.dataset, self.suite, self.case, self.key = dataset, suite, case, key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = dict(self.dataset[index])
        image = convert_to_tensor(item[self.key], track_meta=False)
        changed = self.suite.apply(image[None], self.case, index % len(self))[0]
        result = convert_to_dst_type(changed, item[self.key], dtype=changed.dtype)[0]
        if self.case.family == "orientation_true" and isinstance(result, MetaTensor):
            shape = (*image.shape[1:], 1)[:3]
            result.affine = orientation_affine(self.case.name, result.affine.numpy(), shape)
        item[self.key] = result
        return item


class Detection(NamedTuple):
    """A test set for detectors of corruption.

    Args:
        images: (B, C, X, Y), some corrupted.
        labels: (B,) int64, 1 where corrupted.
        which: (B,) int64, place of the corruption among those to choose from; -1 where there is none.
    """

    images: Tensor
    labels: Tensor
    which: Tensor


def detection_set(
    images: Tensor, corruption: Corruption, seed: int = 0, first_index: int = 0, eight_bit: bool = True
) -> Detection:
    """Corrupt some images of a batch, fixed for each image as in a suite.

    Args:
        images: (B, C, X, Y), float in [0, 1] or uint8; consecutive images of a test set.
        corruption: from ``one_of``: ``unoranic_detection()`` corrupts every second image by one of twelve.
        seed: chooses the draw.
        first_index: place of the first image in the test set.
        eight_bit: as in ``CorruptionSuite.apply``.

    Returns:
        Images, labels and which corruption it was, on the images' device.

    Raises:
        ConfigError: when the corruption does not choose one of several.
    """
    changed, params = _replay(images, corruption, "detection", seed, first_index, eight_bit)
    if "gates" not in params or (params["gates"].sum(1) > 1).any():
        raise ConfigError(f"{corruption.name} does not choose one of several corruptions; give a one_of().")
    labels = params["gates"].any(1).long()
    which = torch.where(labels > 0, params["gates"].long().argmax(1), -1)
    return Detection(changed, labels.to(images.device), which.to(images.device))


def _replay(
    images: Tensor,
    corruption: Corruption,
    name: str,
    seed: int,
    first_index: int,
    eight_bit: bool,
    labels: Tensor | None = None,
) -> tuple[Tensor, Params]:
    generators = [_generator(seed, name, first_index + k) for k in range(len(images))]
    drawn = draw(corruption.sample, images.shape[1:], generators) if generators else None
    params = drawn or corruption.sample(images.shape, torch.Generator())
    if labels is not None:
        params = {**params, "labels": labels}
    exact = ready_images(images, corruption).to(torch.float64)
    changed = corrupt(exact, corruption, params)
    if eight_bit:
        return (changed * 255 + _ROUND).floor().to(torch.float32) / 255, params
    return changed.to(torch.float32), params


def _generator(seed: int, name: str, index: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def _row(family: str, names: Sequence[str] | Mapping[str, Any], severities: Sequence[int]) -> Row:
    return {"family": family, "name": list(names), "severity": list(severities)}


def _expand(row: Row, where: str) -> list[Case]:
    """The cases of a row, each made once: a mistake shows here and not in the middle of a run."""
    if not isinstance(row, Mapping) or not {"family", "name"} <= set(row) <= set(Case._fields):
        raise ConfigError(f"{where}: {row!r}; give a mapping with the keys {', '.join(Case._fields)}.")
    cases = [
        Case(row["family"], name, severity, row.get("dataset"))
        for name in _as_list(row["name"])
        for severity in _as_list(row.get("severity"))
    ]
    for case in cases:
        try:
            case.corruption()
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    if not cases:
        raise ConfigError(
            f"{where}: names {row['name']}, severities {row.get('severity')}; give at least one each."
        )
    return cases


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]
