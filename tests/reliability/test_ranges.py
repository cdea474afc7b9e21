"""Every transform and inferer says what it does with images of other types and ranges, never painting white.

One law for all of them: an image of another kind is refused (whatever the coin), converted (the result is
that of the image in [0, 1]), or kept (the result is that of the image in [0, 1], in the range of the given).
What is public is found by looking; whatever is new has to be added here.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.inferer import Inferer
from monai.networks.nets import AutoencoderKL, VarAutoEncoder
from monai.transforms import Transform
from torch import Tensor, nn

from robustmed_monai import inferers, transforms
from robustmed_monai.inferers.controls import ResizedInferer
from robustmed_monai.inferers.risc_files import StackCorrectionInferer
from robustmed_monai.networks.pchvae import Components
from robustmed_monai.transforms import corruption, synthesis
from robustmed_monai.transforms.adapters import BatchTransform
from robustmed_monai.transforms.artificial_anomalies import BatchArtificialAnomalies
from robustmed_monai.transforms.batch_labelled import BatchFromLabels, BatchRandAffineLabel, BatchRandRemap
from robustmed_monai.transforms.batch_painted_heads import BatchPaintedHeads
from robustmed_monai.transforms.batch_rotation import (
    BatchAllRotations,
    BatchRandIntensity,
    BatchRandRotation,
    BatchRotationFilter,
)
from robustmed_monai.transforms.coarse_noise import BatchCoarseNoise
from robustmed_monai.transforms.corruption.noise import gaussian_noise
from robustmed_monai.transforms.corruption.views import CorruptedOrNot, CorruptedViews
from robustmed_monai.transforms.scale_foreground import IntensityWarning
from robustmed_monai.utils.errors import ConfigError, ImageError, NonFiniteImageError, RobustMedError

SIDE = 64


def _phantom() -> Tensor:
    """A head (1, 64, 64) in [0, 1], in steps of 1 / 255: skull, CSF, grey and white matter, ventricles."""
    axes = np.meshgrid(*[np.arange(SIDE) - (SIDE - 1) / 2] * 2, indexing="ij")
    radius = np.hypot(axes[0] / 24, axes[1] / 29)
    image = np.select(
        [radius > 1, radius > 0.9, radius > 0.8, radius > 0.74, radius > 0.6], [0, 0.8, 0.1, 0.25, 0.6], 0.82
    )
    image[np.hypot((abs(axes[0]) - 4) / 2.5, axes[1] / 7) < 1] = 0.25
    image[0, 0] = 1  # so that what scales by the maximum has one
    return torch.from_numpy(np.rint(image * 255) / 255).float()[None]


UNIT = _phantom()
# A kind of image: how it is made of one in [0, 1], what 0 becomes, and what 1 is more than that.
KINDS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "uint8": (lambda x: (x * 255).round().to(torch.uint8), 0, 255),
    "uint16": (lambda x: (x * 65535).round().to(torch.uint16), 0, 65535),
    "int16 Hounsfield": (lambda x: (x * 2040 - 1000).round().to(torch.int16), -1000, 2040),
    "half": (lambda x: x.half(), 0, 1),
    "bfloat16": (lambda x: x.bfloat16(), 0, 1),
    "float64": (lambda x: x.double(), 0, 1),
    "0 to 255": (lambda x: x * 255, 0, 255),
    "-1 to 1": (lambda x: x * 2 - 1, -1, 2),
    "Hounsfield": (lambda x: x * 2040 - 1000, -1000, 2040),
    "normalised": (lambda x: (x - 0.45) / 0.22, -0.45 / 0.22, 1 / 0.22),
}
Apply = Callable[[Tensor, float], Tensor]  # (1, X, Y) and the probability of the coin


def _array(make: Callable[[float], Any], pick: Callable[[Any], Any] = lambda x: x) -> Apply:
    def apply(image: Tensor, prob: float) -> Tensor:
        made = make(prob)
        if hasattr(made, "set_random_state"):
            made.set_random_state(seed=5)
        return torch.as_tensor(pick(made(image)))

    return apply


def _batch(make: Callable[[float], Any], key: str = "image") -> Apply:
    def apply(image: Tensor, prob: float) -> Tensor:
        batch = {"image": image[None], "label": torch.ones(1, 1, SIDE, SIDE, dtype=torch.uint8)}
        found: Tensor = make(prob)(batch, torch.Generator().manual_seed(5))[key]
        return found

    return apply


def _painted(image: Tensor, _: float) -> Tensor:
    """Heads painted anew, of four equal slices with labels of their own."""
    stack, labels = (part[None, ..., None].repeat(1, 1, 1, 1, 4) for part in (image, (3 * UNIT).round()))
    batch = {"image": stack, "label": labels.to(torch.uint8)}
    found: Tensor = BatchPaintedHeads()(batch, torch.Generator().manual_seed(5))["image"]
    return found


def _stack(make: Callable[[], Any], key: str = "image") -> Apply:
    """A dictionary transform of stacks (C, X, Y, S)."""
    return lambda image, _: torch.as_tensor(make()({"image": image[..., None]})[key])


def _infer(inferer: Any, network: Any, key: str | None = "pred", stack: bool = False) -> Apply:
    def apply(image: Tensor, _: float) -> Tensor:
        found = inferer(image[None, ..., None] if stack else image[None], network)
        return torch.as_tensor(found[key] if key else found)

    return apply


def _numpy(image: Tensor) -> Any:
    """(X, Y) as an array; numpy has no bfloat16."""
    return (image.float() if image.dtype == torch.bfloat16 else image)[0].numpy()


def _same(image: Tensor) -> Tensor:
    return image


def _no_rotation(image: Tensor) -> Tensor:
    return torch.zeros(len(image), 4)


def _classifier(image: Tensor) -> Tensor:
    mean = image.float().mean((1, 2, 3))
    return torch.stack([mean, -mean], 1) * 5


UNORANIC_LIKE = type(
    "Restoring",
    (nn.Module,),
    {"forward": lambda self, x: x * 0.5, "reconstruct": lambda self, x: x, "anatomy": lambda self, x: x},
)()
VAE_LIKE = nn.Identity()
VAE_LIKE.components = lambda x: Components(  # type: ignore[assignment]
    x,
    None,
    None,
    {"low": SimpleNamespace(quantized=x.flatten(1), encoded=x.flatten(1))},  # type: ignore[dict-item]
)
PAIR = "the two images of a pair come from LoadCheckedImage and ScaleForeground"
FILES = "reads files"
LABELS = "takes or makes label maps"
PARTS = "a part that others are made of"
HELPERS = "any range: a plain linear operation on tensors"

NOISE = gaussian_noise(0.1)
APPLY: dict[str, Apply] = {
    "AlignToTemplate": _array(lambda _: transforms.AlignToTemplate(48, 4.0, (0, 0))),
    "BatchAllRotations": _batch(lambda _: BatchAllRotations(8)),
    "BatchArtificialAnomalies": _batch(lambda _: BatchArtificialAnomalies()),
    "BatchCoarseNoise": _batch(lambda _: BatchCoarseNoise()),
    "BatchCorruption": _batch(lambda p: corruption.BatchCorruption(corruption.chain([NOISE], p))),
    "BatchFromLabels": _batch(lambda _: BatchFromLabels()),
    "BatchPaintedHeads": _painted,
    "BatchRandAffine": _batch(lambda _: transforms.BatchRandAffine()),
    "BatchRandAffineLabel": _batch(lambda p: BatchRandAffineLabel(p)),
    "BatchRandIntensity": _batch(lambda _: BatchRandIntensity()),
    "BatchRandRemap": _batch(lambda p: BatchRandRemap(p)),
    "BatchRandRotation": _batch(lambda _: BatchRandRotation(8, mode="bilinear")),
    "BatchRotationFilter": _batch(lambda _: BatchRotationFilter(8)),
    "BrainZScored": _stack(lambda: transforms.BrainZScored("image")),
    "CorruptedOrNot": _batch(lambda _: CorruptedOrNot(corruption.chain([NOISE], 0.5))),
    "CorruptedViews": _batch(lambda p: CorruptedViews(corruption.chain([NOISE], p)), "corrupted"),
    "EqualizeAdaptHist": _array(lambda _: transforms.EqualizeAdaptHist()),
    "HeadMaskd": _stack(lambda: transforms.HeadMaskd("image"), "head"),
    "OODSlicesd": _stack(
        lambda: transforms.OODSlicesd("image", transforms.training_statistics(UNIT[None])), "in_distribution"
    ),
    "RandCorruption": _array(lambda p: corruption.RandCorruption(gaussian_noise(0.1), p)),
    "RandDiffeomorphicDeform": _array(lambda p: transforms.RandDiffeomorphicDeform(prob=p)),
    "RandForeignObject": _array(
        lambda p: transforms.RandForeignObject(("disc",), prob=p), lambda found: found[0]
    ),
    "RandLesion": _array(lambda p: transforms.RandLesion(prob=p), lambda found: found[0]),
    "RandRotateK": _array(lambda p: transforms.RandRotateK(4, p)),
    "RotateK": _array(lambda _: transforms.RotateK(3, 8)),
    "ScaleForeground": _array(lambda _: transforms.ScaleForeground(100)),
    "SelectSlicesd": _stack(lambda: transforms.SelectSlicesd("image")),
    "VolumeToSlices": _array(lambda _: transforms.VolumeToSlices(48)),
    "all_rotations": lambda image, _: transforms.all_rotations(image[None], 8),
    "brain_zscore": lambda image, _: transforms.brain_zscore(image[None]).slices,
    "corrupt": lambda image, _: corruption.corrupt(
        image[None], gaussian_noise(0.1), gaussian_noise(0.1).sample((1, *image.shape), torch.Generator())
    ),
    "draw_lesion": lambda image, _: torch.from_numpy(
        transforms.draw_lesion(_numpy(image), transforms.LesionSpec("hypo", (20.0, 32.0), 100.0, 0.4, 0))[0]
    ),
    "equalize_adapthist": lambda image, _: transforms.equalize_adapthist(image[None]),
    "find_brain_region": lambda image, _: torch.from_numpy(transforms.find_brain_region(_numpy(image)).brain),
    "rotate": lambda image, _: transforms.rotate(image[None], 3, 8, "bilinear"),
    "rotate_by": lambda image, _: transforms.rotate_by(image[None], 20.0, "bilinear"),
    "sample_lesion": lambda image, _: torch.tensor(
        transforms.sample_lesion(_numpy(image), np.random.default_rng(0)).area
    ),
    "training_statistics": lambda image, _: torch.tensor(
        [figure.get("high", 0.0) for figure in transforms.training_statistics(image[None]).values()]
    ),
    "AnomalyMapInferer": _infer(
        inferers.AnomalyMapInferer(perceptual="none"), lambda x: x.flip(2), "anomaly_map"
    ),
    "AnyAngleInferer": _infer(inferers.AnyAngleInferer(_no_rotation, fine=2, axes="XY"), _classifier),
    "ElboInferer": _infer(inferers.ElboInferer(), VAE_LIKE),
    "FeatureInferer": _infer(inferers.FeatureInferer(), _same, None),
    "MemoryInferer": _infer(inferers.MemoryInferer(), _same, "anomaly_map"),
    "RegistrationInferer": lambda image, _: inferers.RegistrationInferer()(
        torch.cat([image, image])[None],
        lambda moving, fixed, represented: {"ddf": torch.ones(1, 2, SIDE, SIDE)},
    )["moved"],
    "ResizedInferer": _infer(ResizedInferer(inferers.MemoryInferer(), 48), _same, "anomaly_map"),
    "RestorationInferer": _infer(inferers.RestorationInferer(), UNORANIC_LIKE),
    "RotationCorrectionInferer": _infer(
        inferers.RotationCorrectionInferer(num_rotations=8, correction="average", axes="XY"), _classifier
    ),
    "SlicewiseInferer": _infer(inferers.SlicewiseInferer(), _same, None, stack=True),
    "StackCorrectionInferer": _infer(
        StackCorrectionInferer(
            inferers.RotationCorrectionInferer(_no_rotation, correction="average", axes="XY"), 28
        ),
        _classifier,
        stack=True,
    ),
}
OTHERS = {
    "BatchTransform": PARTS,
    "SeededDictTransform": PARTS,
    "SeededTransform": PARTS,
    "LoadCheckedImage": FILES,
    "PairFieldsd": PAIR,
    "RandLabelShapes": LABELS,
    "RandLabelsToImage": LABELS,
    "AlignPaird": PAIR,
    "ReferencedInferer": "hands the stack to its inferer",
    "ResampleMovingd": PAIR,
    "TargetGridd": PAIR,
    "KeepBraind": "takes what is outside of the brain out of a map",
    "SayAssessedd": "reads positions, no intensities",
    "SayHeadOutsided": "takes masks",
    "ThresholdMapd": "takes maps",
    "UndoBrainZScored": "takes what BrainZScored made",
    "UnscaleIntensityd": "takes what ScaleForegroundd made",
    "apply_affine": HELPERS,
    "image_score": "takes maps",
    "warp": HELPERS,
}


def _found() -> Iterator[str]:
    """Transforms, batch transforms and inferers wherever they are, and public functions of images."""
    for package in (transforms, inferers):
        for place in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(place.name)
            for name, item in vars(module).items():
                own = getattr(item, "__module__", None) == module.__name__ and item.__name__ == name
                if own and inspect.isclass(item) and issubclass(item, Transform | BatchTransform | Inferer):
                    yield name
    for package in (transforms, corruption, synthesis, inferers):
        for name in package.__all__:
            item = getattr(package, name)
            images = {"image", "images", "img", "slices", "maps"}
            if inspect.isfunction(item) and images & set(inspect.signature(item).parameters):
                yield name


def _answer(apply: Apply, image: Tensor, prob: float) -> Tensor | None:
    """What comes out; None when the image was refused, or a warning says that it does not fit."""
    try:
        return apply(image, prob).float()
    except (RobustMedError, IntensityWarning):
        return None


def test_everything_public_is_here() -> None:
    known = APPLY.keys() | OTHERS.keys()
    found = set(_found())
    # The dictionary form of what is here calls it.
    assert {n for n in found if n not in known and n.removesuffix("d") not in known} == set()
    assert {n for n in known if n not in found} == set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", APPLY)
def test_another_kind_of_image_is_refused_converted_or_kept(name: str, kind: str) -> None:
    make, low, span = KINDS[kind]
    image = make(UNIT)
    as_unit = (image.double() - low) / span
    found = [_answer(APPLY[name], image, prob) for prob in (0.0, 1.0)]
    assert (found[0] is None) == (found[1] is None), "the coin decides whether it is refused"
    for prob, result in zip((0.0, 1.0), found, strict=True):
        if result is None:
            continue
        wanted = APPLY[name](as_unit.float(), prob).float()
        assert wanted.ndim == 0 or name == "OODSlicesd" or wanted.std() > 0
        rough = 2e-2 if kind in ("half", "bfloat16") else 2e-3
        slack = rough * max(1.0, float(wanted.abs().max()))
        converted = torch.allclose(result, wanted, atol=slack)
        kept = torch.allclose(result, wanted * span + low, atol=slack * span)
        assert converted or kept, f"{float(result.min()):.3f} to {float(result.max()):.3f}"


@pytest.mark.parametrize("name", APPLY)
def test_nan_is_refused_or_seen(name: str) -> None:
    image = UNIT.clone()
    image[0, 30, 30] = float("nan")
    found = [_answer(APPLY[name], image, prob) for prob in (0.0, 1.0)]
    assert (found[0] is None) == (found[1] is None)
    assert all(result is None or not torch.isfinite(result).all() for result in found)


@pytest.mark.parametrize("name", APPLY)
def test_images_in_the_unit_range_are_taken(name: str) -> None:
    for prob in (0.0, 1.0):
        assert torch.isfinite(APPLY[name](UNIT, prob).float()).all()


def test_refusals_say_the_range_and_what_to_do() -> None:
    message = r"equalize_adapthist: values from 0 to 255; give images in \[0, 1\], such as MONAI's ScaleInt"
    with pytest.raises(ImageError, match=message):
        transforms.EqualizeAdaptHist()(UNIT * 255)
    with pytest.raises(ImageError, match=r"RandLesion: images are torch.int16, whose white is not known"):
        transforms.RandLesion(prob=0.0)(torch.zeros(1, 8, 8, dtype=torch.int16))
    with pytest.raises(NonFiniteImageError, match="eight rotations: the images hold NaN"):
        transforms.rotate(torch.full((1, 1, 8, 8), float("nan")), 1, 8)
    with pytest.raises(ConfigError, match="the map holds fractions or NaN; give labels"):
        transforms.RandLabelsToImage()(torch.rand(1, 8, 8))


class TestNetworksOfUsers:
    """MONAI's own networks in AnomalyMapInferer: their reconstruction is the first of what they give."""

    INFERER = inferers.AnomalyMapInferer(equalize=False, perceptual="none")

    def _networks(self) -> list[tuple[Any, Callable[[Tensor], Tensor]]]:
        torch.manual_seed(0)
        vae = VarAutoEncoder(2, (1, 32, 32), 1, 4, (4, 8), (2, 2)).eval()
        kl = AutoencoderKL(
            2, 1, 1, (1, 1), (8, 8), (False, False), 3, 4, with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        ).eval()  # fmt: skip
        return [(vae, lambda x: vae(x)[0]), (kl, lambda x: kl.reconstruct(x))]

    def test_that_give_more_than_an_image(self) -> None:
        image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        (vae, plain), (kl, _) = self._networks()
        with torch.no_grad():
            wanted = (plain(image).clamp(0, 1) - image).abs()
        torch.testing.assert_close(self.INFERER(image, vae)["anomaly_map"], wanted)
        assert torch.isfinite(self.INFERER(image, kl)["anomaly_map"]).all()
        with pytest.raises(ConfigError, match=r"needs a module with features\(x\)"):
            inferers.AnomalyMapInferer()(image, vae)

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            (torch.zeros(1, 2), r"gives \(1, 2\) for images \(1, 1, 8, 8\)"),
            ((), "gives tuple for images"),
            ({"pred": 1}, "gives dict for images"),
        ],
    )
    def test_that_give_no_image(self, output: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            self.INFERER(torch.zeros(1, 1, 8, 8), lambda _: output)

    def test_that_give_nan(self) -> None:
        with pytest.raises(NonFiniteImageError, match="the network gives NaN"):
            self.INFERER(torch.zeros(1, 1, 8, 8), lambda image: image / 0)
