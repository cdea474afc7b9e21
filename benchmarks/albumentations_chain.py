"""The peer of ``bench_corruptions.py`` in an environment of its own: Albumentations, image by image.

Called with a file of 8-bit images (N, rows, columns[, 3]). For each line on standard input it corrupts all
images one by one, as the workers of a DataLoader do, stacks them to float32 in [0, 1], and answers.
"""

from __future__ import annotations

import sys

import albumentations as A  # type: ignore[import-not-found]
import cv2  # type: ignore[import-not-found]
import numpy as np


def chain(prob: float = 0.25) -> A.Compose:
    """The twelve corruptions with the parameters that 1.3.1 had as defaults, as near as 2.0.8 has them."""
    area = {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_AREA}
    return A.Compose(
        [
            A.PixelDropout(dropout_prob=0.01, drop_value=0, p=prob),
            A.GaussianBlur(blur_limit=(3, 7), sigma_limit=(0.8, 1.4), p=prob),
            A.ColorJitter(
                brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.2, 0.2), p=prob
            ),
            A.Downscale(scale_range=(0.5, 0.9), interpolation_pair=area, p=prob),
            A.GaussNoise(std_range=(10**0.5 / 255, 50**0.5 / 255), per_channel=True, p=prob),
            A.InvertImg(p=prob),
            A.MotionBlur(blur_limit=(3, 7), allow_shifted=True, p=prob),
            A.MultiplicativeNoise(multiplier=(0.9, 1.1), per_channel=False, elementwise=False, p=prob),
            A.RandomBrightnessContrast(brightness_limit=(-0.2, 0.2), contrast_limit=(-0.2, 0.2), p=prob),
            A.RandomGamma(gamma_limit=(80, 120), p=prob),
            A.Solarize(threshold_range=(128 / 255, 128 / 255), p=prob),
            A.Sharpen(alpha=(0.2, 0.5), lightness=(0.5, 1.0), method="kernel", p=prob),
        ],
        seed=0,
    )


def main() -> None:
    """Answer until standard input ends."""
    cv2.setNumThreads(0)
    images = np.load(sys.argv[1])
    corrupt = chain()
    for _ in sys.stdin:
        batch = np.stack([corrupt(image=image)["image"] for image in images]).astype(np.float32) / 255
        print(batch.shape, flush=True)


if __name__ == "__main__":
    main()
