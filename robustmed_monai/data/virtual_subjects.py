"""Virtual subjects: T1-weighted heads grown from the MNI152 template by random warps and random contrasts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from robustmed_monai.transforms.random_fields import enlarge, smooth_noise
from robustmed_monai.transforms.template_head import brain_distance

Array = NDArray[np.float32]

SHAPE = (128, 128, 80)
SPACING = 1.8  # mm; 128 voxels hold a head, as the 128-pixel images of the RA paper do
_LATTICE = 4  # voxels between two points of the lattice on which warps are made
# Axes right, posterior, superior ("RPS"): the world is RAS, so only the second axis runs backwards.
AFFINE = np.array(
    [
        [SPACING, 0.0, 0.0, -SPACING * (SHAPE[0] - 1) / 2],
        [0.0, -SPACING, 0.0, -17.0 + SPACING * (SHAPE[1] - 1) / 2],
        [0.0, 0.0, SPACING, -52.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


@dataclass(frozen=True)
class VirtualSubject:
    """One subject on the common grid (`SHAPE`, `AFFINE`, axes right, posterior, superior).

    Attributes:
        image: T1-weighted intensities in [0, 1], float32.
        labels: 0 background, 1 CSF, 2 grey matter, 3 white matter, uint8.
        ventricles: lateral and third ventricles, bool.
    """

    image: Array
    labels: NDArray[np.uint8]
    ventricles: NDArray[np.bool_]


def virtual_subject(seed: int, index: int) -> VirtualSubject:
    """Make one subject; the same numbers give the same bits.

    The template is carried by the exponential of a smooth random stationary velocity field, to which a flow
    away from or towards the ventricles is added; then sulci are widened or narrowed at random, a skull and
    scalp of uneven thickness are put around the brain (the template has none), tissues get the subject's own
    intensities, and a bias field and noise are added.

    Args:
        seed: seed of the data set, >= 0.
        index: number of the subject, >= 0.

    Returns:
        The subject.

    References:
        Fonov et al., "Unbiased average age-appropriate atlases for pediatric studies", NeuroImage 2011
        (MNI152 ICBM 2009a, as packaged by nilearn); Arsigny et al., "A log-Euclidean framework for statistics
        on diffeomorphisms", MICCAI 2006 (scaling and squaring).
    """
    rng = np.random.default_rng([seed, index])
    template = _template()
    points = _world() + _displacement(template, rng)
    tissue, distance, ventricle = _carried(template, points)
    tissue = np.clip(tissue + 0.22 * smooth_noise(SHAPE, 2.0, rng) + 0.08 * rng.standard_normal(), 0.0, 2.0)
    inside = distance + 0.6 * smooth_noise(SHAPE, 3.0, rng) < 0.0
    tissue = np.where(inside, tissue, 0.0).astype(np.float32)
    image, cranium = _intensities(tissue, distance, inside, rng)
    labels = np.where(cranium, 1 + (tissue > 0.5) + (tissue > 1.5), 0).astype(np.uint8)
    return VirtualSubject(image, labels, (ventricle > 0.5) & (labels == 1))


@dataclass(frozen=True)
class _Template:
    # (1, 3, X, Y, Z): tissue 0 CSF .. 1 grey .. 2 white, distance to the brain, ventricles
    channels: torch.Tensor
    inverse: NDArray[np.float64]  # world (mm) to voxels
    outward: Array  # (3, ...) on the warp lattice: unit field away from the ventricles, fading with distance
    depth: Array  # on the warp lattice: 0 at the brain's surface and outside, 1 deep inside


@cache
def _template() -> _Template:
    from nilearn import datasets

    source = datasets.load_mni152_template(resolution=1)
    t1 = source.get_fdata(dtype=np.float32)
    grey = datasets.load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32)
    white = datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    # The template's own intensities of CSF, grey and white matter.
    by_intensity = np.clip((t1 - 0.26) / 0.39, 0.0, 1.0) + np.clip((t1 - 0.65) / 0.22, 0.0, 1.0)
    tissue = 0.5 * by_intensity + 0.5 * (grey + 2.0 * white)
    distance = brain_distance(t1 > 0)
    inverse = np.linalg.inv(source.affine)
    tissue = _sharpened(tissue)
    ventricles = _ventricles(tissue, distance, inverse)
    channels = torch.from_numpy(np.stack([tissue, distance, ventricles]))[None]
    outward = np.stack([_on_lattice(part, inverse) for part in _outward(ventricles)])
    depth = np.clip(-distance[::2, ::2, ::2] / 14.0 + 0.15, 0.0, 1.0)
    return _Template(channels, inverse, outward, _on_lattice(depth, inverse))


def _sharpened(tissue: Array) -> Array:
    # An average of 152 people is smoother than any of them.
    from scipy.ndimage import gaussian_filter

    sharp: Array = tissue + 0.8 * (tissue - gaussian_filter(tissue, 2.0, truncate=2.0))
    return sharp.astype(np.float32)


def _ventricles(tissue: Array, distance: Array, inverse: NDArray[np.float64]) -> Array:
    """The deep pieces of CSF that hold the bodies of the lateral ventricles."""
    from scipy.ndimage import binary_dilation, label

    pieces, _ = label((tissue < 0.4) & (distance < -20.0))
    bodies = np.zeros(tissue.shape, dtype=bool)
    for side in (-10.0, 10.0):
        middle = np.round(inverse[:3, :3] @ (side, 5.0, 18.0) + inverse[:3, 3]).astype(int)
        bodies[tuple(slice(i - 4, i + 5) for i in middle)] = True
    chosen = np.setdiff1d(pieces[bodies], [0])
    grown: Array = binary_dilation(np.isin(pieces, chosen)).astype(np.float32)
    return grown


def _outward(ventricles: Array) -> Array:
    """Unit field away from the ventricles, fading with distance, (3, ...) at 2 mm."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    coarse = ventricles[::2, ::2, ::2] > 0.5
    signed = 2.0 * (distance_transform_edt(~coarse) - distance_transform_edt(coarse))
    signed = gaussian_filter(signed, 1.5)
    fading = np.exp(-0.5 * (np.maximum(signed, 0.0) / 12.0) ** 2)
    field: Array = (np.stack(np.gradient(signed, 2.0)) * fading).astype(np.float32)
    return field


def _on_lattice(field: Array, inverse: NDArray[np.float64]) -> Array:
    """Bring a field of the template at 2 mm to the warp lattice."""
    from scipy.ndimage import map_coordinates

    world = _world()[:, ::_LATTICE, ::_LATTICE, ::_LATTICE].reshape(3, -1)
    voxels = 0.5 * (inverse[:3, :3] @ world + inverse[:3, 3:])
    shape = [-(-size // _LATTICE) for size in SHAPE]
    sampled: Array = map_coordinates(field, voxels, order=1, mode="nearest").reshape(shape)
    return np.pad(sampled, ((0, 1),) * 3, mode="edge")


@cache
def _world() -> Array:
    """World coordinates (3, *SHAPE) of the voxels, in mm."""
    axes = [AFFINE[i, i] * np.arange(size) + AFFINE[i, 3] for i, size in enumerate(SHAPE)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def _displacement(template: _Template, rng: np.random.Generator) -> Array:
    """Displacement in mm from the subject's grid to the template, (3, *SHAPE)."""
    shape = template.outward.shape[1:]
    # Amplitude (mm) and length (mm): the shape of the head, lobes, gyri. The skull smooths its surroundings.
    velocity = np.zeros_like(template.outward)
    for amplitude, length in ((2.0, 45.0), (2.2, 18.0), (1.6, 8.0)):
        for axis in range(3):
            flow = smooth_noise(shape, length / (SPACING * _LATTICE), rng)
            velocity[axis] += amplitude * flow * (1.0 if length > 40.0 else template.depth)
    # Backward map: a flow towards the ventricles widens them.
    velocity -= np.float32(rng.uniform(-1.0, 9.0)) * template.outward
    fine = [enlarge(part, (_LATTICE,) * 3, SHAPE) for part in _exponential(velocity)]
    return np.stack(fine) + _affine_displacement(rng)


def _affine_displacement(rng: np.random.Generator) -> Array:
    centre = np.array([0.0, -17.0, 10.0])
    scale = np.diag(np.exp(rng.normal(0.0, 0.025, 3)))
    angles = rng.normal(0.0, np.deg2rad(2.5), 3)
    skew = np.array([[0, -angles[2], angles[1]], [angles[2], 0, -angles[0]], [-angles[1], angles[0], 0]])
    shift = rng.normal(0.0, 1.0, 3)
    matrix = (scale @ (np.eye(3) + skew) - np.eye(3)).astype(np.float32)
    offset = (shift - matrix @ centre).astype(np.float32)
    world = _world()
    # Written out: a matrix product may sum in another order on another number of threads.
    rows = [sum(matrix[i, j] * world[j] for j in range(3)) + offset[i] for i in range(3)]
    return np.stack(rows).astype(np.float32)


def _exponential(velocity: Array) -> Array:
    """Scaling and squaring of a velocity field in mm on the warp lattice."""
    steps = 6
    size = torch.tensor(velocity.shape[1:], dtype=torch.float32)
    # grid_sample wants coordinates in [-1, 1], last axis first.
    direction = torch.tensor(np.sign(np.diag(AFFINE)[:3]), dtype=torch.float32)
    to_unit = (2.0 * direction / (SPACING * _LATTICE * (size - 1))).view(3, 1, 1, 1)
    axes = [torch.linspace(-1, 1, int(n)) for n in size]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    field = torch.from_numpy(velocity / np.float32(2**steps))
    for _ in range(steps):
        grid = (identity + field * to_unit).flip(0).movedim(0, -1)[None]
        field = (
            field
            + torch.nn.functional.grid_sample(
                field[None], grid, mode="bilinear", padding_mode="border", align_corners=True
            )[0]
        )
    result: Array = field.numpy()
    return result


def _carried(template: _Template, points: Array) -> Array:
    """Sample the template's channels at world points."""
    size = template.channels.shape[2:]
    units = []
    for axis in (2, 1, 0):
        voxel = points[axis] * np.float32(template.inverse[axis, axis]) + np.float32(
            template.inverse[axis, 3]
        )
        units.append(torch.from_numpy(voxel * np.float32(2.0 / (size[axis] - 1)) - 1.0))
    grid = torch.stack(units, dim=-1)[None]
    sampled: Array = torch.nn.functional.grid_sample(
        template.channels, grid, mode="bilinear", padding_mode="border", align_corners=True
    )[0].numpy()
    return sampled


def _intensities(
    tissue: Array, distance: Array, inside: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Array, NDArray[np.bool_]]:
    """Return the image and the intracranial region."""
    fluid, grey, white = rng.normal((0.27, 0.66, 0.90), (0.03, 0.03, 0.015)).tolist()
    # Tissue borders are crisper than the interpolated template.
    crisp = tissue - 0.18 * np.sin(2 * np.pi * tissue)
    brain = (
        fluid + (grey - fluid) * np.clip(crisp, 0.0, 1.0) + (white - grey) * np.clip(crisp - 1.0, 0.0, 1.0)
    )
    fluid_end = 1.5 + _thickness(rng, 1.2, 0.8, 25.0)
    bone_end = fluid_end + _thickness(rng, rng.uniform(5.0, 7.0), 0.8, 30.0)
    skin_end = bone_end + _thickness(rng, rng.uniform(4.0, 7.5), 1.0, 30.0)
    texture = smooth_noise(SHAPE, 2.0, rng)
    fat = rng.uniform(0.65, 0.95) * (1.0 + 0.06 * texture)
    marrow = rng.uniform(0.05, 0.3) * np.exp(-(((distance - 0.5 * (fluid_end + bone_end)) / 1.2) ** 2))
    bone = 0.13 + 0.03 * texture + marrow
    image = np.where(inside, brain, np.float32(0.8 * fluid))
    for start, level in ((fluid_end, bone), (bone_end, fat), (skin_end, 0.0)):
        image += (level - image) * np.clip((distance - start) / 1.5 + 0.5, 0.0, 1.0)
    bias = np.exp(0.06 * smooth_noise(SHAPE, 30.0, rng))
    noise = rng.uniform(0.008, 0.02) * rng.standard_normal(SHAPE, dtype=np.float32)
    image = np.where(distance < skin_end + 1.0, image * bias + noise, 0.004 * np.abs(noise) / 0.01)
    return np.clip(image, 0.0, 1.0).astype(np.float32), distance < np.maximum(fluid_end, 0.5)


def _thickness(rng: np.random.Generator, mean: float, spread: float, scale: float) -> Array:
    thickness: Array = np.maximum(mean + spread * smooth_noise(SHAPE, scale / SPACING, rng), 0.3)
    return thickness
