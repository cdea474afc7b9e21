"""MedMNIST-C's registry as plain data: corruption, data sets, and the five levels of severity.

Data sets go by their names without "mnist". Some published peculiarities stay as they are:

- ``black_corner`` of derma is not monotone: its fourth circle is smaller than its fifth.
- ``stain_deposit`` of blood repeats its third level.
- ``defocus_blur`` of retina and ``gaussian_blur`` of chest and pneumonia have a sixth value, (9, 0.6) and 13,
  which no severity uses: it bounds MedMNIST-C's training augmentation, and is left out here.

Source: F. Di Salvo, S. Doerrich, C. Ledig, "MedMNIST-C: Comprehensive benchmark and improved classifier
robustness by simulating realistic image corruptions", 2024 (arXiv 2406.17536).
"""

from __future__ import annotations

Level = float | tuple[float, ...]
Levels = tuple[Level, Level, Level, Level, Level]

GREY = ("tissue", "oct", "breast", "chest", "pneumonia", "organa", "organc", "organs")
COLOUR = ("path", "blood", "derma", "retina")

TABLES: dict[str, dict[str, Levels]] = {
    # Share of the side that is left.
    "pixelate": {
        "path": (0.8, 0.6, 0.4, 0.3, 0.25),
        "blood": (0.6, 0.5, 0.4, 0.3, 0.25),
        "derma": (0.7, 0.5, 0.4, 0.3, 0.25),
        "retina": (0.8, 0.6, 0.5, 0.4, 0.35),
        "tissue": (0.4, 0.3, 0.2, 0.15, 0.1),
        "oct breast chest": (0.3, 0.25, 0.2, 0.15, 0.1),
        "pneumonia": (0.8, 0.7, 0.6, 0.5, 0.4),
        "organa organc organs": (0.7, 0.6, 0.5, 0.4, 0.35),
    },
    # Quality.
    "jpeg_compression": {
        "path blood breast chest pneumonia organa organc organs": (50, 30, 15, 10, 7),
        "derma": (30, 20, 15, 10, 7),
        "retina": (30, 25, 20, 10, 5),
        "tissue": (25, 20, 15, 10, 7),
        "oct": (30, 15, 10, 7, 5),
    },
    # Standard deviation.
    "gaussian_noise": {
        "derma chest": (0.04, 0.08, 0.12, 0.18, 0.26),
        "retina organa organc organs": (0.04, 0.08, 0.12, 0.16, 0.2),
        "pneumonia": (0.04, 0.05, 0.06, 0.07, 0.08),
    },
    "speckle_noise": {
        "derma chest": (0.05, 0.15, 0.2, 0.35, 0.45),
        "retina breast": (0.1, 0.15, 0.2, 0.25, 0.3),
        "oct": (0.15, 0.3, 0.4, 0.5, 0.6),
        "pneumonia": (0.05, 0.07, 0.1, 0.15, 0.2),
        "organa organc organs": (0.05, 0.1, 0.2, 0.3, 0.4),
    },
    # Share of the values.
    "impulse_noise": {
        "derma chest": (0.01, 0.03, 0.06, 0.09, 0.17),
        "tissue": (0.01, 0.015, 0.02, 0.025, 0.03),
        "pneumonia": (0.005, 0.01, 0.013, 0.017, 0.02),
        "organa organc organs": (0.01, 0.02, 0.03, 0.05, 0.08),
    },
    # Photons of a white pixel.
    "shot_noise": {
        "derma chest": (60, 25, 18, 10, 5),
        "pneumonia": (300, 200, 150, 100, 80),
        "organa organc organs": (200, 100, 50, 25, 15),
    },
    # Radius of the disc, sigma of the blur that smooths its edge.
    "defocus_blur": {
        "path": ((3, 0.1), (4, 0.1), (5, 0.2), (6, 0.2), (7, 0.3)),
        "blood": ((2, 0.01), (3, 0.1), (4, 0.1), (5, 0.1), (6, 0.1)),
        "derma": ((4, 0.1), (5, 0.2), (6, 0.3), (7, 0.4), (8, 0.5)),
        "retina": ((4, 0.1), (5, 0.2), (6, 0.3), (7, 0.4), (8, 0.5)),
        "oct": ((0.5, 0.6), (1, 0.5), (1.5, 0.1), (2.0, 0.5), (2.5, 0.1)),
    },
    # ImageMagick's radius and sigma.
    "motion_blur": {
        "path": ((5, 5), (10, 5), (15, 5), (15, 8), (15, 12)),
        "blood": ((3, 3), (5, 5), (10, 5), (10, 7), (10, 9)),
        "derma": ((10, 5), (15, 5), (15, 8), (15, 12), (20, 15)),
        "retina": ((8, 5), (15, 5), (15, 8), (15, 12), (20, 15)),
        "oct": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "breast": ((5, 5), (9, 7), (9, 10), (13, 10), (17, 12)),
    },
    # End and step of the zoom factors, which begin at 1.
    "zoom_blur": {
        "derma": ((1.11, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03)),
    },
    # Kernel size.
    "gaussian_blur": {
        "tissue": (13, 15, 17, 21, 25),
        "chest pneumonia": (3, 5, 7, 9, 11),
        "organa organc organs": (11, 13, 15, 17, 21),
    },
    # Factor.
    "brightness_up": {
        "path": (1.1, 1.15, 1.2, 1.22, 1.25),
        "blood": (1.1, 1.2, 1.3, 1.35, 1.4),
        "derma chest pneumonia": (1.1, 1.2, 1.3, 1.4, 1.5),
        "tissue": (1.3, 1.4, 1.5, 1.6, 1.7),
        "breast": (1.4, 1.5, 1.6, 1.8, 2.0),
        "organa organc organs": (1.2, 1.3, 1.4, 1.5, 1.6),
    },
    "brightness_down": {
        "path": (0.85, 0.8, 0.75, 0.72, 0.7),
        "blood derma retina chest pneumonia": (0.9, 0.8, 0.7, 0.6, 0.5),
        "tissue": (0.8, 0.7, 0.6, 0.5, 0.4),
        "breast": (0.55, 0.5, 0.45, 0.4, 0.3),
        "organa organc organs": (0.8, 0.75, 0.7, 0.65, 0.6),
    },
    "contrast_up": {
        "path derma tissue chest pneumonia": (1.1, 1.2, 1.3, 1.4, 1.6),
        "blood": (1.1, 1.15, 1.2, 1.25, 1.3),
        "organa organc organs": (1.3, 1.4, 1.6, 1.7, 1.8),
    },
    "contrast_down": {
        "path organa organc organs": (0.8, 0.7, 0.6, 0.55, 0.5),
        "blood": (0.9, 0.8, 0.7, 0.6, 0.5),
        "derma": (0.8, 0.7, 0.6, 0.5, 0.4),
        "retina tissue breast chest pneumonia": (0.9, 0.8, 0.7, 0.6, 0.4),
        "oct": (0.6, 0.4, 0.3, 0.2, 0.15),
    },
    # Power.
    "gamma_corr_up": {
        "chest pneumonia": (1.1, 1.2, 1.3, 1.4, 1.6),
        "organa organc organs": (1.3, 1.4, 1.6, 1.8, 2.0),
    },
    "gamma_corr_down": {
        "chest pneumonia organa organc organs": (0.9, 0.8, 0.7, 0.6, 0.4),
    },
    # Added to the saturation of HSV.
    "saturate": {
        "path": (0.05, 0.1, 0.15, 0.2, 0.25),
        "blood": (0.05, 0.1, 0.15, 0.17, 0.2),
    },
    # Most blots.
    "stain_deposit": {
        "path": (1, 2, 3, 4, 5),
        "blood": (1, 2, 3, 3, 3),
    },
    # Largest radius, most bubbles.
    "bubble": {
        "path": ((7, 15), (10, 15), (12, 15), (15, 20), (17, 25)),
        "blood": ((5, 10), (7, 10), (10, 10), (12, 12), (15, 12)),
    },
    # Radius in halves of the side.
    "black_corner": {
        "derma": (1.1, 1.05, 1.0, 0.9, 0.95),
    },
    # Most words, most letters of a word, largest font size as a share of the side.
    "characters": {
        "derma": ((1, 6, 0.14), (2, 7, 0.15), (3, 8, 0.16), (4, 9, 0.17), (6, 10, 0.18)),
    },
}
