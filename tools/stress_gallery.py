"""A stress report to look at, of virtual subjects, and a picture of its beginning.

    python tools/stress_gallery.py [--output docs/stress.png] [--report out/stress_gallery]

The model gives every pixel the tissue whose mean grey value on the training images is nearest. The baseline
does so after both are stretched to the same mean and deviation. The picture needs Chromium; the report does
not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from robustmed_monai.apps.stress import callable_model, make_suite, stress, tensor_data
from robustmed_monai.data.pairs import tissue_images
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.files import atomic_path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NAMES = ("background", "CSF", "grey matter", "white matter")
WIDTH, HEIGHT = 1200, 1560


def report(
    folder: Path, count: int = 20, severities: Sequence[int] = (1, 3, 5), size: int = 96
) -> dict[str, Any]:
    """Stress the model and write the report.

    Args:
        folder: of the report.
        count: slices at least, spread over the virtual subjects of the test set.
        severities: of what has some.
        size: side of the slices in pixels.
    """
    training, test = (tissue_images(section, image_size=size).tensors for section in ("training", "test"))
    step = max(1, len(test["image"]) // count)
    shown = {name: values[::step] for name, values in test.items()}
    data = tensor_data(
        shown["image"], shown["label"], "virtual subjects", shown["subject"].tolist(), len(NAMES), NAMES
    )
    plain, stretched = (
        nearest_mean(training["image"], training["label"], how) for how in (torch.clone, standard)
    )
    suite = make_suite(["mr", "geometry", "acquisition", "orientation"], data, severities)
    return stress(
        callable_model(plain, "nearest mean"),
        data,
        suite,
        folder,
        baseline=callable_model(stretched, "nearest mean, stretched"),
        command="python tools/stress_gallery.py",
    )


def nearest_mean(
    images: Tensor, labels: Tensor, prepare: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Images (B, 1, X, Y) to the class of the nearest mean.

    Args:
        images: that the means are of.
        labels: their classes.
        prepare: what is done to images first.
    """
    seen = prepare(images)
    means = torch.stack([seen[labels == k].mean() for k in range(len(NAMES))])
    return lambda shown: (prepare(shown) - means.view(1, -1, 1, 1)).abs().argmin(1, keepdim=True)


def standard(images: Tensor) -> Tensor:
    """Images of mean 0 and deviation 1 each."""
    spread = images.flatten(1).std(1).clamp_min(1e-6).view(-1, 1, 1, 1)
    return (images - images.mean((1, 2, 3), keepdim=True)) / spread


def chromium() -> list[str]:
    """Words that start headless Chromium, without its profile; none where it is not installed."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    return [program, "--headless", "--disable-gpu", *as_root] if program else []


def photograph(page: Path, picture: Path) -> Path:
    """The beginning of a page as a PNG, by headless Chromium.

    Raises:
        ConfigError: where there is no Chromium.
    """
    browser = chromium()
    if not browser:
        raise ConfigError(f"none of {', '.join(BROWSERS)} is installed; open {page} yourself.")
    with tempfile.TemporaryDirectory() as profile:
        shot = Path(profile) / "shot.png"
        command = [*browser, "--hide-scrollbars", f"--user-data-dir={profile}/user"]
        command += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", page.absolute().as_uri()]
        subprocess.run(command, capture_output=True, timeout=120, check=True)
        with Image.open(shot) as image, atomic_path(picture) as temporary:
            image.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(
                temporary, format="PNG", optimize=True
            )
    return picture


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report and its picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("docs/stress.png"), help="picture to write")
    parser.add_argument(
        "--report", type=Path, default=Path("out/stress_gallery"), help="folder of the report"
    )
    options = parser.parse_args(arguments)
    report(options.report)
    photograph(options.report / "report.html", options.output)


if __name__ == "__main__":
    main()
