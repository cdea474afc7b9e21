"""Corruptions of a whole batch, beside MONAI's and Albumentations' image by image, and beside kornia's.

    python benchmarks/bench_corruptions.py [--rounds 15] [--device cpu] [--output results.json]

On one CPU thread. Albumentations 2.0.8 (the last one under MIT) gets an environment of its own in
``out/benchmark_peers`` and takes its turns in a process there, told and answering through pipes; kornia is
put beside it and runs in this process on the same tensors. ``--quick`` installs nothing and leaves both out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import monai.transforms as mt
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.timing import Row, Work, brain_slices, interleaved, options, row, same_numbers, save
from robustmed_monai.transforms.corruption.core import Corruption
from robustmed_monai.transforms.corruption.digital import elastic_transform, jpeg_compression
from robustmed_monai.transforms.corruption.filters import gaussian_blur, sharpen
from robustmed_monai.transforms.corruption.geometry import rotation
from robustmed_monai.transforms.corruption.monai_transforms import BatchCorruption, RandCorruption
from robustmed_monai.transforms.corruption.noise import gaussian_noise, impulse_noise
from robustmed_monai.transforms.corruption.optics import motion_blur
from robustmed_monai.transforms.corruption.tone import (
    brightness,
    colour_jitter,
    contrast_about_mean,
    gamma,
    invert,
    solarize,
)
from robustmed_monai.transforms.corruption.unoranic import unoranic_chain
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.provenance import CHECKOUT
from tools.corruption_gallery import colour_image

PEERS = CHECKOUT / "out/benchmark_peers"
ALBUMENTATIONS = ("albumentations==2.0.8", "opencv-python-headless")
KORNIA = ("kornia==0.9.0", "kornia_rs==0.2.0")
MONAI_ITEMS, ALBUMENTATIONS_ITEMS = "MONAI, image by image", "Albumentations 2.0.8, image by image"


def images_of(channels: int, count: int, size: int) -> Tensor:
    """8-bit images (count, channels, size, size): slices of heads, or a smear, turned and shifted."""
    if channels == 1:
        return (brain_slices(count, size) * 255).to(torch.uint8)
    picture = (colour_image(size) * 255).to(torch.uint8)
    return torch.stack([picture.roll((5 * i, 3 * i), (1, 2)).rot90(i, (1, 2)) for i in range(count)])


def monai_chain(prob: float = 0.25) -> mt.Compose:
    """The twelve corruptions by MONAI's transforms where it has one near it, torchvision's where not.

    Where neither has one the work is that of the next best: a fixed line for the motion blur, and MONAI's
    sharpening kernel.
    """

    def lambd(function: Callable[[Tensor], Tensor]) -> mt.RandLambda:
        return mt.RandLambda(func=function, prob=prob)

    return mt.Compose(
        [
            mt.RandCoarseDropout(holes=8, spatial_size=1, fill_value=0, prob=prob),
            mt.RandGaussianSmooth(sigma_x=(0.8, 1.4), sigma_y=(0.8, 1.4), prob=prob),
            lambd(v2.ColorJitter(0.2, 0.2, 0.2, 0.2)),
            mt.RandSimulateLowResolution(
                zoom_range=(0.5, 0.9), downsample_mode="area", upsample_mode="bilinear", prob=prob
            ),
            mt.RandGaussianNoise(std=0.02, sample_std=False, prob=prob),
            lambd(v2.functional.invert),
            mt.RandImageFilter(torch.eye(7) / 7, prob=prob),
            mt.RandScaleIntensity(factors=0.1, prob=prob),
            mt.Compose([mt.RandScaleIntensity(0.2, prob=prob), mt.RandShiftIntensity(0.2, prob=prob)]),
            mt.RandAdjustContrast(gamma=(0.8, 1.2), prob=prob),
            lambd(partial(v2.functional.solarize, threshold=128 / 255)),
            mt.RandImageFilter("sharpen", 3, prob=prob),
            mt.ScaleIntensityRange(0, 1, 0, 1, clip=True),
        ]
    )


def each(transform: Callable[[Any], Any], images: Tensor) -> Tensor:
    """Corrupt the images one by one and stack them, as a DataLoader does."""
    return torch.stack([torch.as_tensor(transform(image.float() / 255)) for image in images])


@contextmanager
def albumentations_works(batches: dict[str, Tensor]) -> Iterator[dict[str, Work]]:
    """Works that let the process in the other environment corrupt each batch once."""
    python = PEERS / "albumentations/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", PEERS / "albumentations"], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *ALBUMENTATIONS], check=True)
    script = Path(__file__).with_name("albumentations_chain.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    children: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        works: dict[str, Work] = {}
        for name, images in batches.items():
            path = Path(folder) / f"{len(works)}.npy"
            # Rows first and channels last is OpenCV's layout.
            np.save(path, np.ascontiguousarray(images.permute(0, 3, 2, 1).squeeze(-1).numpy()))
            child = subprocess.Popen(
                [python, script, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            children.append(child)
            works[name] = partial(_ask, child)
        try:
            yield works
        finally:
            for child in children:
                child.communicate()


def _ask(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - both are pipes
    child.stdin.write("go\n")
    child.stdin.flush()
    if not child.stdout.readline():
        raise DataError(f"the process of Albumentations ended with {child.wait()}; see its message above.")


def chain_works(count: int, size: int) -> tuple[dict[str, Work], dict[str, Tensor]]:
    """The whole chain of batches of bytes to batches of float32: ours, and MONAI's; and the batches."""
    works: dict[str, Work] = {}
    batches = {"grey": images_of(1, count, size), "RGB": images_of(3, count, size)}
    for name, images in batches.items():
        case = f"twelve-step chain, {name}"
        generator, batch = torch.Generator().manual_seed(0), BatchCorruption(unoranic_chain(0.25))
        works[case] = partial(batch, {"image": images}, generator)
        works[f"{case}, each"] = partial(each, RandCorruption(unoranic_chain(0.25), prob=1.0), images)
        works[f"{case}, {MONAI_ITEMS}"] = partial(each, monai_chain(), images)
    return works, batches


def chain_rows(chosen: Any, count: int, size: int) -> list[Row]:
    """Rows of the whole chain."""
    works, batches = chain_works(count, size)
    peers = [MONAI_ITEMS]
    if chosen.quick:
        seconds = interleaved(works, chosen.rounds)
    else:
        peers.append(ALBUMENTATIONS_ITEMS)
        named = {
            f"twelve-step chain, {name}, {ALBUMENTATIONS_ITEMS}": images for name, images in batches.items()
        }
        with albumentations_works(named) as others:
            seconds = interleaved({**works, **others}, chosen.rounds)
    rows = []
    for case in (f"twelve-step chain, {name}" for name in batches):
        rows += [row(case, seconds[case], seconds[f"{case}, {peer}"], peer) for peer in peers]
        items = seconds[f"{case}, each"]
        rows.append(row(f"{case}, image by image", items, seconds[f"{case}, {MONAI_ITEMS}"], MONAI_ITEMS))
    return rows


def kornia_pairs() -> dict[str, tuple[Corruption, Callable[[Tensor], Tensor], float | None]]:
    """What kornia has as well: our corruption, kornia's, and how far results may differ (None: random)."""
    PEERS.mkdir(parents=True, exist_ok=True)
    target = PEERS / "kornia"
    if not target.exists():
        # Without its dependencies: torch is that of this process.
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(target),
            *KORNIA,
        ]
        subprocess.run(command, check=True)
    sys.path.insert(0, str(target))
    import kornia.augmentation as ka  # type: ignore[import-not-found]
    import kornia.enhance as ke  # type: ignore[import-not-found]
    import kornia.filters as kf  # type: ignore[import-not-found]

    return {
        "gaussian blur": (gaussian_blur(7), lambda x: kf.gaussian_blur2d(x, (7, 7), (1.4, 1.4)), 1e-5),
        "brightness": (brightness(1.3), lambda x: ke.adjust_brightness_accumulative(x, 1.3), 1e-6),
        "contrast": (contrast_about_mean(0.4), lambda x: _kornia_contrast(ke, x), None),
        "gamma": (gamma(1.4), lambda x: ke.adjust_gamma(x, 1.4), 1e-5),
        "solarize": (solarize(0.5), lambda x: ke.solarize(x, 0.5), 1e-6),
        "invert": (invert(), ke.invert, 1e-6),
        "Gaussian noise": (gaussian_noise(0.1), ka.RandomGaussianNoise(std=0.1, p=1.0), None),
        "salt and pepper": (impulse_noise(0.1), ka.RandomSaltAndPepperNoise(0.1, 0.5, p=1.0), None),
        "colour jitter": (colour_jitter(), ka.ColorJitter(0.2, 0.2, 0.2, 0.2, p=1.0), None),
        "sharpen (kornia: PIL's)": (sharpen(), ka.RandomSharpness(0.5, p=1.0), None),
        "motion blur (kornia: evenly weighted)": (
            motion_blur(7, 3),
            ka.RandomMotionBlur(15, 45.0, 0.0, p=1.0),
            None,
        ),
        "JPEG (kornia: differentiable)": (
            jpeg_compression(25),
            ka.RandomJPEG(torch.tensor([25.0, 25.0]), p=1.0),
            None,
        ),
        "elastic": (elastic_transform(12.5), ka.RandomElasticTransform((63, 63), (2.24, 2.24), p=1.0), None),
        "rotation": (rotation(20.0), ka.RandomRotation(20.0, p=1.0), None),
    }


def _kornia_contrast(ke: Any, images: Tensor) -> Tensor:
    # Its mean is that of the grey image; a mean of each channel it does not have.
    found: Tensor = ke.adjust_contrast_with_mean_subtraction(images, 0.4)
    return found


def kornia_rows(chosen: Any, count: int, size: int) -> tuple[list[Row], dict[str, float]]:
    """Rows of the single corruptions beside kornia's, and largest differences of what is not random."""
    images = (images_of(3, count, size).float() / 255).to(chosen.device)
    works: dict[str, Work] = {}
    differences = {}
    for name, (corruption, peer, tolerance) in kornia_pairs().items():
        generator, batch = torch.Generator().manual_seed(0), BatchCorruption(corruption)
        works[name], works[f"{name}, kornia"] = (
            partial(batch, {"image": images}, generator),
            partial(_no_grad, peer, images),
        )
        if tolerance is not None:
            found = batch({"image": images}, generator)["image"]
            difference = same_numbers(name, found, _no_grad(peer, images), tolerance)
            differences[name] = difference
    seconds = interleaved(works, chosen.rounds, chosen.device)
    names = [name for name in works if not name.endswith(", kornia")]
    return [
        row(name, seconds[name], seconds[f"{name}, kornia"], "kornia 0.9.0") for name in names
    ], differences


@torch.no_grad()
def _no_grad(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return function(images)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file."""
    chosen = options("corruptions", __doc__, 15, arguments)
    torch.set_num_threads(1)
    rows = chain_rows(chosen, *((4, 28) if chosen.quick else (256, 28)))
    head: dict[str, Any] = {"seeds": [0]}
    if not chosen.quick:
        singles, head["largest_difference"] = kornia_rows(chosen, 64, 224)
        rows += singles
    save(chosen, rows, **head)


if __name__ == "__main__":
    main()
