"""Laws of the lesion painter on a phantom of a head, in two and three dimensions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from robustmed_monai.transforms.brain_region import BrainRegion, find_brain_region
from robustmed_monai.transforms.lesion_painting import MATERIAL, LesionSpec
from robustmed_monai.transforms.lesions import (
    KINDS,
    SIZES,
    RandLesion,
    RandLesiond,
    draw_lesion,
    sample_lesion,
    size_name,
)
from robustmed_monai.transforms.random_fields import enlarge, smooth_noise
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

LOCAL = ("hyper", "hypo", "cavity", "thin_rim")


def phantom(shape: tuple[int, ...] = (128, 128), white: float = 0.82) -> tuple[NDArray[Any], NDArray[Any]]:
    """Head of nested ellipsoids with a folded cortex and two ventricles; image and tissue labels."""
    unit = max(shape) / 128
    axes = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) / unit for n in shape], indexing="ij")
    angle = np.arctan2(axes[1], axes[0])
    scale = (46.0, 55.0, 50.0)
    radius = np.sqrt(sum((a / s) ** 2 for a, s in zip(axes, scale, strict=False)))
    cortex = 0.68 + 0.03 * np.sin(24 * angle)
    others = sum((a / s) ** 2 for a, s in zip(axes[1:], (15.0, 14.0), strict=False))
    ventricle = np.minimum(((axes[0] - 6) / 4.5) ** 2, ((axes[0] + 6) / 4.5) ** 2) + others < 1
    labels = (radius < 0.8).astype(np.uint8) + (radius < 0.76) + (radius < cortex)
    labels[ventricle] = 1
    image = np.select([radius > 1, radius > 0.92, radius > 0.8], [0.0, 0.8, 0.1], 0.0)
    image = np.where(labels > 0, np.array([0.0, 0.25, 0.6, white])[labels], image)
    image = gaussian_filter(image, 0.5)
    noise = np.random.default_rng(7).normal(0.0, 0.01, shape) * (radius < 1)
    return np.clip(image + noise, 0, 1).astype(np.float32), labels


@pytest.fixture(scope="module")
def head() -> tuple[NDArray[Any], BrainRegion]:
    image, labels = phantom()
    return image, find_brain_region(image, labels)


def change(before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.abs(after - before))


def dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("shape", [(128, 128), (200, 180), (64, 64, 48)])
def test_regions_found_without_labels_agree_with_the_labels(shape: tuple[int, ...]) -> None:
    image, labels = phantom(shape)
    known, found = find_brain_region(image, labels), find_brain_region(image)
    assert (known.brain == (labels > 0)).all()
    # Without labels the outermost CSF is taken for skull: half a voxel to a voxel all around.
    assert dice(found.brain, known.brain) > (0.93 if max(shape) >= 128 else 0.91)
    assert dice(found.ventricles, known.ventricles) > 0.8
    assert abs(found.csf_level - 0.25) < 0.04
    assert not (found.brain & ~found.head).any()
    assert not (found.ventricles & ~found.brain).any()


def test_skull_stripped_image_is_all_brain() -> None:
    image, labels = phantom()
    stripped = np.where(labels > 0, image, 0).astype(np.float32)
    found = find_brain_region(stripped)
    assert (found.brain == found.head).all()
    assert dice(found.brain, labels > 0) > 0.97


def test_regions_of_an_empty_image_are_empty() -> None:
    region = find_brain_region(np.zeros((32, 32), np.float32))
    assert not region.brain.any()
    assert not region.ventricles.any()


def test_regions_refuse_wrong_shapes() -> None:
    with pytest.raises(ImageShapeError, match="4 axes"):
        find_brain_region(np.zeros((1, 1, 8, 8), np.float32))
    with pytest.raises(ImageShapeError, match=r"\(8, 9\)"):
        find_brain_region(np.zeros((8, 8), np.float32), np.zeros((8, 9), np.uint8))


# The phantom's ventricles are so long that the least shift of their wall is a medium lesion.
@pytest.mark.parametrize(
    ("kind", "size"), [(k, s) for k in KINDS for s in SIZES if (k, s) != ("enlarged_ventricles", "small")]
)
def test_sampled_lesion_is_visible_inside_the_brain_and_of_the_size(
    head: tuple[NDArray[Any], BrainRegion], kind: str, size: str
) -> None:
    image, region = head
    for seed in range(4):
        spec = sample_lesion(image, np.random.default_rng(seed), [kind], [size], region=region)
        after, mask = draw_lesion(image, spec, region)
        assert spec.kind == kind
        assert size_name(int(mask.sum())) == size
        assert mask.any()
        assert not (mask & ~region.brain).any()
        assert change(image, after)[mask].mean() > MATERIAL
        assert after.dtype == np.float32
        assert 0 <= after.min() <= after.max() <= 1


@pytest.mark.parametrize("kind", LOCAL)
def test_mask_covers_every_material_change_of_the_local_kinds(
    head: tuple[NDArray[Any], BrainRegion], kind: str
) -> None:
    image, region = head
    for seed in range(6):
        spec = sample_lesion(image, np.random.default_rng(seed), [kind], region=region)
        after, mask = draw_lesion(image, spec, region)
        assert change(image, after)[~mask].max() < MATERIAL
        far = ~binary_dilation(mask, iterations=8)
        np.testing.assert_array_equal(after[far], image[far])
        np.testing.assert_array_equal(after[~region.brain], image[~region.brain])


@pytest.mark.parametrize("kind", ["mass_effect", "enlarged_ventricles"])
def test_displacing_kinds_leave_the_skull_and_far_tissue_alone(
    head: tuple[NDArray[Any], BrainRegion], kind: str
) -> None:
    image, region = head
    for seed in range(3):
        spec = sample_lesion(image, np.random.default_rng(seed), [kind], ["small", "medium"], region=region)
        after, mask = draw_lesion(image, spec, region)
        far = ~binary_dilation(mask | region.ventricles, iterations=30)
        assert far.any()
        assert change(image, after)[far].max() < 0.01
        assert change(image, after)[~region.head].max() == 0


def test_enlarged_ventricles_are_new_dark_area_around_the_old(head: tuple[NDArray[Any], BrainRegion]) -> None:
    image, region = head
    after, mask = draw_lesion(image, LesionSpec("enlarged_ventricles", (0.0, 0.0), 300.0, 1.0, 0), region)
    assert abs(mask.sum() - 300) < 100
    assert not (mask & region.ventricles).any()
    assert not (mask & ~binary_dilation(region.ventricles, iterations=9)).any()
    assert np.median(image[mask]) > 0.7
    assert np.median(after[mask]) < 0.4


def test_mass_effect_pushes_tissue_away_and_is_dark_inside(head: tuple[NDArray[Any], BrainRegion]) -> None:
    image, region = head
    ramp = np.where(region.brain, np.linspace(0.3, 0.9, 128, dtype=np.float32)[:, None], 0).astype(np.float32)
    center = (84.0, 64.0)
    after, _ = draw_lesion(ramp, LesionSpec("mass_effect", center, 300.0, 1.0, 0), region)
    # On a rising ramp, what stands beside the core came from nearer to the center.
    assert after[72, 64] > ramp[72, 64] + 0.005
    assert after[96, 64] < ramp[96, 64] - 0.005
    dark, _ = draw_lesion(image, LesionSpec("mass_effect", center, 300.0, 1.0, 0), region)
    assert dark[84, 64] < image[84, 64] - 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_zero_contrast_is_the_identity(head: tuple[NDArray[Any], BrainRegion], kind: str) -> None:
    image, region = head
    after, mask = draw_lesion(image, LesionSpec(kind, (80.0, 60.0), 300.0, 0.0, 3), region)
    np.testing.assert_array_equal(after, image)
    assert not mask.any()


@pytest.mark.parametrize("kind", KINDS)
def test_larger_area_gives_a_larger_mask(head: tuple[NDArray[Any], BrainRegion], kind: str) -> None:
    image, region = head
    center = (18.0 + 10, 63.0) if kind == "thin_rim" else (85.0, 60.0)
    masks = []
    for area in (40.0, 150.0, 400.0, 900.0):
        _, mask = draw_lesion(
            image, LesionSpec(kind, center, area, 1.0 if kind == "enlarged_ventricles" else 0.5, 5), region
        )
        masks.append(mask)
    areas = [int(mask.sum()) for mask in masks]
    assert areas == sorted(set(areas)), areas


@pytest.mark.parametrize("kind", KINDS)
def test_same_spec_gives_same_bits_and_another_seed_another_lesion(
    head: tuple[NDArray[Any], BrainRegion], kind: str
) -> None:
    image, region = head
    specs = [sample_lesion(image, np.random.default_rng(4), [kind], region=region) for _ in range(2)]
    assert specs[0] == specs[1]
    first, again = (draw_lesion(image, spec, region) for spec in specs)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    if kind != "enlarged_ventricles":
        other = draw_lesion(image, replace(specs[0], seed=specs[0].seed + 1), region)
        assert (other[0] != first[0]).any()


def test_hyper_lesion_avoids_saturated_tissue() -> None:
    image, labels = phantom(white=1.0)
    region = find_brain_region(image, labels)
    for seed in range(5):
        spec = sample_lesion(
            image, np.random.default_rng(seed), ["hyper"], ["small", "medium"], region=region
        )
        after, mask = draw_lesion(image, spec, region)
        assert change(image, after)[mask].mean() > MATERIAL


def test_hyper_lesion_is_refused_where_all_is_saturated() -> None:
    image, labels = phantom()
    white = np.where(labels > 0, 1.0, image).astype(np.float32)
    region = find_brain_region(white, labels)
    with pytest.raises(DataError, match="no visible lesion of kinds \\['hyper'\\]"):
        sample_lesion(white, np.random.default_rng(0), ["hyper"], region=region)


def test_image_without_a_brain_is_refused() -> None:
    with pytest.raises(DataError, match="no brain"):
        sample_lesion(np.zeros((64, 64), np.float32), np.random.default_rng(0))


def test_unknown_choices_are_refused(head: tuple[NDArray[Any], BrainRegion]) -> None:
    image, region = head
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="kinds: found \\['blob'\\]"):
        sample_lesion(image, rng, ["blob"], region=region)
    with pytest.raises(ConfigError, match="sizes"):
        RandLesion(sizes=["huge"])
    with pytest.raises(ConfigError, match="contrast"):
        sample_lesion(image, rng, contrast=(0.5, 0.2), region=region)
    with pytest.raises(ConfigError, match="3 coordinates for 2 axes"):
        draw_lesion(image, LesionSpec("hypo", (1.0, 1.0, 1.0), 50.0, 0.3, 0), region)


@pytest.mark.parametrize("kind", KINDS)
def test_volumes_are_painted_too(kind: str) -> None:
    image, labels = phantom((64, 64, 48))
    region = find_brain_region(image, labels)
    spec = sample_lesion(image, np.random.default_rng(1), [kind], ["large"], region=region)
    after, mask = draw_lesion(image, spec, region)
    assert mask.shape == image.shape
    assert mask.any(axis=(0, 1)).sum() > 3
    assert not (mask & ~region.brain).any()
    if kind in LOCAL:
        assert change(image, after)[~mask].max() < MATERIAL


def test_size_follows_the_grid() -> None:
    # The same drawing on a grid of twice the pixels has four times the area and the same name.
    assert size_name(70 * 4, grid=256) == size_name(70)
    image, labels = phantom((256, 256))
    region = find_brain_region(image, labels)
    spec = sample_lesion(image, np.random.default_rng(0), ["hypo"], ["small"], region=region)
    _, mask = draw_lesion(image, spec, region)
    assert size_name(int(mask.sum()), grid=256) == "small"
    assert mask.sum() > SIZES["small"][0] * 4 - 1


def test_rand_lesion_draws_with_its_own_state_only(head: tuple[NDArray[Any], BrainRegion]) -> None:
    image = MetaTensor(torch.from_numpy(head[0])[None])
    transforms: list[Any] = [RandLesion(prob=1.0).set_random_state(11) for _ in range(2)]
    results = [transform(image) for transform in transforms]
    assert isinstance(results[0][0], MetaTensor)
    assert results[0][0].dtype == results[0][1].dtype == torch.float32
    assert results[0][0].shape == results[0][1].shape == image.shape
    assert torch.equal(results[0][0], results[1][0])
    assert set(results[0][1].unique().tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(image[0].numpy(), head[0])


def test_rand_lesion_without_a_draw_is_the_identity(head: tuple[NDArray[Any], BrainRegion]) -> None:
    transform = RandLesion(prob=0.0)
    after, mask = transform(head[0][None])
    assert isinstance(after, np.ndarray)
    np.testing.assert_array_equal(after[0], head[0])
    assert not mask.any()
    assert transform.spec is None


def test_dictionary_transform_adds_mask_and_kind() -> None:
    image, labels = phantom()
    item = {"image": torch.from_numpy(image)[None], "label": torch.from_numpy(labels)[None]}
    transform: Any = RandLesiond("image", label_key="label", prob=0.5).set_random_state(0)
    kinds = set()
    for _ in range(12):
        result = transform(item)
        kinds.add(result["kind"])
        assert bool(result["mask"].any()) == (result["kind"] != "healthy")
        assert torch.equal(item["image"][0], torch.from_numpy(image))
    assert "healthy" in kinds
    assert len(kinds) > 2


def test_refusal_of_the_transform_names_the_file() -> None:
    image = MetaTensor(torch.zeros(1, 32, 32), meta={"filename_or_obj": "/data/empty.png"})
    with pytest.raises(DataError, match=r"/data/empty\.png: image: no brain"):
        RandLesion(prob=1.0)(image)
    with pytest.raises(ImageShapeError, match=r"\(3, 32, 32\)"):
        RandLesion(prob=1.0)(torch.zeros(3, 32, 32))


@pytest.mark.parametrize("scale", [1.0, 3.0, 9.0])
def test_smooth_noise_has_unit_variance_and_the_scale_asked_for(scale: float) -> None:
    field = smooth_noise((400, 400), scale, np.random.default_rng(0))
    assert abs(field.mean()) < 0.2
    assert 0.7 < field.var() < 1.2
    # White noise under a Gaussian kernel of width s is correlated as exp(-d^2 / (4 s^2)).
    lag = round(2 * scale)
    correlation = np.mean(field[lag:] * field[:-lag]) / field.var()
    assert abs(correlation - np.exp(-((lag / scale) ** 2) / 4)) < 0.1


def test_enlarge_interpolates_linearly() -> None:
    lattice = np.random.default_rng(0).random((4, 5)).astype(np.float32)
    result = enlarge(lattice, (2.0, 2.5), (6, 9))
    x, y = 3 / 2.0, 4 / 2.5
    i, j, u, v = int(x), int(y), x % 1, y % 1
    low = lattice[i, j] * (1 - v) + lattice[i, j + 1] * v
    high = lattice[i + 1, j] * (1 - v) + lattice[i + 1, j + 1] * v
    assert result.shape == (6, 9)
    assert abs(result[3, 4] - (low * (1 - u) + high * u)) < 1e-6
