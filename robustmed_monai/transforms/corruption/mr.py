"""Artefacts of magnetic resonance imaging, in 2-D and 3-D, on a common severity scale.

Bias field, Gibbs ringing, k-space spike, Rician noise and low resolution compute what MONAI's transforms of
one image compute (tests hold them equal), for a batch, with the random numbers drawn beforehand. Phases are
encoded along the second spatial axis: anterior-posterior in this package's layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.transforms.corruption.core import (
    Corruption,
    at_severity,
    constant,
    gaussian,
    sample_constants,
    sample_nothing,
)
from robustmed_monai.transforms.corruption.geometry import move
from robustmed_monai.transforms.params import Params, Shape, per_image

_DIMS = (2, 3)
_POSES = 4  # positions of the head during one acquisition
_GHOSTS = (2, 3, 4, 5, 6)


def mr_artifact(name: str, severity: int) -> Corruption:
    """An MR artefact on the scale 1 to 5.

    Args:
        name: key of ``MR_ARTIFACTS``.
        severity: 1 to 5, or 0 for the identity.

    Raises:
        ConfigError: for an unknown name or severity.

    Example:
        >>> mr_artifact("motion", 2).spatial_dims
        (2, 3)
    """
    return at_severity(name, severity, MR_ARTIFACTS, "the MR artefacts")


def bias_field(coefficient: float, degree: int = 3) -> Corruption:
    """Multiply by exp(sum of Legendre polynomials): the uneven sensitivity of coils (MONAI's RandBiasField).

    Args:
        coefficient: coefficients of the polynomials are uniform in +- this.
        degree: highest degree along an axis.
    """
    return Corruption(
        "bias_field", partial(_sample_field, coefficient, degree), partial(_bias, degree), _DIMS
    )


def _sample_field(coefficient: float, degree: int, shape: Shape, generator: torch.Generator) -> Params:
    count = len(_degrees(degree, len(shape) - 2))
    return {"coefficients": (2 * torch.rand(shape[0], count, generator=generator) - 1) * coefficient}


def _bias(degree: int, images: Tensor, params: Params) -> Tensor:
    field = images.new_zeros(len(images), 1, *images.shape[2:])
    # A matrix product would sum in an order that depends on the size of the batch.
    for k, term in enumerate(_legendre(degree, tuple(images.shape[2:])).to(images)):
        field.addcmul_(per_image(params["coefficients"][:, k], images), term)
    return images * field.exp()


@lru_cache(maxsize=4)
def _legendre(degree: int, sides: tuple[int, ...]) -> Tensor:
    """Products of Legendre polynomials, one along each axis, on [-1, 1]: (number, X, Y[, Z])."""
    along = [np.polynomial.legendre.legvander(np.linspace(-1, 1, side), degree).T for side in sides]
    letters = "xyz"[: len(sides)]
    products = [
        np.einsum(",".join(letters) + "->" + letters, *(axis[k] for axis, k in zip(along, term, strict=True)))
        for term in _degrees(degree, len(sides))
    ]
    return torch.from_numpy(np.stack(products).astype(np.float32))


def _degrees(degree: int, axes: int) -> list[tuple[int, ...]]:
    """Degrees along the axes, in the order of MONAI's coefficients."""
    terms = product(range(degree + 1), repeat=axes)
    # MONAI takes the lower triangle of the coefficient matrix in 2-D, but a bounded total degree in 3-D.
    return [t for t in terms if (t[1] <= t[0] if axes == 2 else sum(t) <= degree)]


def gibbs(alpha: float) -> Corruption:
    """Cut off high frequencies: ringing at edges (MONAI's GibbsNoise).

    Args:
        alpha: share of the half diagonal of k-space that is cut, in [0, 1].
    """
    return Corruption("gibbs", partial(sample_constants, {"alpha": alpha}), _truncate, _DIMS)


def _truncate(images: Tensor, params: Params) -> Tensor:
    sides, axes = images.shape[2:], tuple(range(2, images.ndim))
    squares = images.new_zeros(())
    for axis, side in enumerate(sides):
        offset = torch.arange(side, dtype=images.dtype, device=images.device) - (side - 1) / 2
        squares = squares + offset.square().view([side if k == axis else 1 for k in range(len(sides))])
    radius = (1 - per_image(params["alpha"], images)) * (max(sides) * math.sqrt(2) / 2)
    spectrum = torch.fft.fftshift(torch.fft.fftn(images, dim=axes), axes)
    kept = torch.where(squares.sqrt() <= radius, spectrum, 0)
    cut: Tensor = torch.fft.ifftn(torch.fft.ifftshift(kept, axes), dim=axes).real
    return cut


def spike(amplitude: float) -> Corruption:
    """Set one point of k-space to a large value: stripes over the whole image (MONAI's KSpaceSpikeNoise).

    Args:
        amplitude: height of the stripes, in units of the range [0, 1]; the point's magnitude is this times
            the number of pixels, so it means the same for every image. Its phase is kept.
    """
    return Corruption("spike", partial(_sample_spike, amplitude), _spike, _DIMS)


def _sample_spike(amplitude: float, shape: Shape, generator: torch.Generator) -> Params:
    direction = gaussian((shape[0], len(shape) - 2), generator)
    reach = 0.2 + 0.6 * torch.rand(shape[0], 1, generator=generator)
    share = reach * direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-6)
    half = torch.tensor([side // 2 for side in shape[2:]])
    place = (half + (share * half).round().long()).minimum(torch.tensor(shape[2:]) - 1)
    return {"place": place, "amplitude": constant(shape[0], amplitude)}


def _spike(images: Tensor, params: Params) -> Tensor:
    axes = tuple(range(2, images.ndim))
    spectrum = torch.fft.fftshift(torch.fft.fftn(images, dim=axes), axes)
    rows = torch.arange(len(images), device=images.device)
    point = (rows, slice(None), *params["place"].unbind(1))
    value = spectrum[point]
    size = torch.view_as_real(value).square().sum(-1).sqrt()
    phase = torch.where(size > 0, value / size.clamp_min(1e-30), 1)
    magnitude = params["amplitude"].to(images.dtype) * math.prod(images.shape[2:])
    spectrum[point] = phase * magnitude[:, None]
    striped: Tensor = torch.fft.ifftn(torch.fft.ifftshift(spectrum, axes), dim=axes).real
    return striped


def rician(std: float) -> Corruption:
    """Noise of a magnitude image, |x + n1 + i n2| (MONAI's RandRicianNoise with a fixed spread).

    Args:
        std: standard deviation of both parts, in units of the range [0, 1].
    """
    return Corruption("rician", partial(_sample_rician, std), _rician, _DIMS)


def _sample_rician(std: float, shape: Shape, generator: torch.Generator) -> Params:
    return {
        "real": std * gaussian(shape, generator),
        "imaginary": std * gaussian(shape, generator),
    }


def _rician(images: Tensor, params: Params) -> Tensor:
    return torch.hypot(images + params["real"].to(images.dtype), params["imaginary"].to(images.dtype))


def low_resolution(zoom: float) -> Corruption:
    """Shrink by area and enlarge linearly (MONAI's RandSimulateLowResolution).

    Args:
        zoom: share of the side that is left, in (0, 1].
    """
    return Corruption("low_resolution", sample_nothing, partial(_resample, zoom), _DIMS)


def _resample(zoom: float, images: Tensor, params: Params) -> Tensor:
    small = [max(1, round(side * zoom)) for side in images.shape[2:]]
    mode = "bilinear" if images.ndim == 4 else "trilinear"
    return F.interpolate(
        F.interpolate(images, small, mode="area"), images.shape[2:], mode=mode, align_corners=False
    )


def motion(degrees: float, shift: float, spread: float = 1.0) -> Corruption:
    """The head moves three times while the lines of k-space are measured, one after the other.

    Each part of k-space is that of the image in one of four positions (rotated in the plane of the first two
    axes and shifted along them, empty outside); positions count from the one at the centre of k-space, so the
    image stays where it is. The magnitude is shown.

    Args:
        degrees: largest rotation of a position, either way; two of them may differ by twice this.
        shift: largest shift likewise, as a share of the side.
        spread: share of the lines, about the central one, between which the head moves, in (0, 1]; the
            smaller, the stronger the artefact, for there the image has its energy.
    """
    return Corruption("motion", partial(_sample_motion, degrees, shift, spread), _composite, _DIMS)


def _sample_motion(
    degrees: float, shift: float, spread: float, shape: Shape, generator: torch.Generator
) -> Params:
    u = torch.rand(shape[0], _POSES, 4, generator=generator)
    starts = (0.5 + (u[:, :, 3] - 0.5) * spread).sort(1).values
    starts[:, 0] = 0
    lines = shape[3]
    moment = (torch.arange(lines) + 0.5) / lines
    pose = (moment >= starts[:, :, None]).sum(1) - 1
    moves = (2 * u[:, :, :3] - 1) * torch.tensor([degrees, shift, shift])
    centre = pose[:, lines // 2].view(-1, 1, 1).expand(-1, 1, 3)
    return {"moves": moves - moves.gather(1, centre), "pose": pose}


def _composite(images: Tensor, params: Params) -> Tensor:
    pose = torch.fft.ifftshift(params["pose"], 1)
    pose = pose.view(len(images), 1, 1, images.shape[3], *[1] * (images.ndim - 4))
    spectrum = torch.zeros_like(images, dtype=images.dtype.to_complex())
    for k, moves in enumerate(params["moves"].unbind(1)):
        moved = move(images, moves[:, 0], moves[:, 1:], padding="zeros")
        spectrum = torch.where(pose == k, torch.fft.fft(moved, dim=3), spectrum)
    composed: Tensor = torch.fft.ifft(spectrum, dim=3).abs()
    return composed


def ghosting(strength: float) -> Corruption:
    """Weaken every n-th line of k-space, but not the central one: n shifted copies (pulsation, breathing).

    The number of copies is drawn from 2 to 6. The magnitude is shown.

    Args:
        strength: share that the lines lose, in [0, 1].
    """
    return Corruption("ghosting", partial(_sample_ghosts, strength), _weaken, _DIMS)


def _sample_ghosts(strength: float, shape: Shape, generator: torch.Generator) -> Params:
    chosen = (torch.rand(shape[0], generator=generator) * len(_GHOSTS)).long()
    return {"ghosts": torch.tensor(_GHOSTS)[chosen], "strength": constant(shape[0], strength)}


def _weaken(images: Tensor, params: Params) -> Tensor:
    lines = images.shape[3]
    # Frequencies of fft, counted from the central line 0.
    frequency = torch.fft.fftfreq(lines, 1 / lines, device=images.device).round().long()
    weak = (frequency % params["ghosts"][:, None] == 0) & (frequency != 0)
    gain = 1 - weak * params["strength"][:, None].to(images.dtype)
    gain = gain.view(len(images), 1, 1, lines, *[1] * (images.ndim - 4))
    ghosted: Tensor = torch.fft.ifft(torch.fft.fft(images, dim=3) * gain, dim=3).abs()
    return ghosted


def _motion(level: tuple[float, ...]) -> Corruption:
    return motion(*level)


MR_ARTIFACTS: dict[str, tuple[Callable[..., Corruption], tuple[float | tuple[float, ...], ...]]] = {
    "bias_field": (bias_field, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "gibbs": (gibbs, (0.4, 0.5, 0.6, 0.7, 0.8)),
    "spike": (spike, (0.03, 0.06, 0.1, 0.15, 0.2)),
    "rician": (rician, (0.02, 0.05, 0.08, 0.12, 0.18)),
    "low_resolution": (low_resolution, (0.8, 0.6, 0.45, 0.35, 0.25)),
    "motion": (
        _motion,
        ((0.5, 0.005, 1.0), (1.0, 0.01, 0.8), (1.5, 0.015, 0.6), (2.5, 0.025, 0.45), (4.0, 0.04, 0.3)),
    ),
    "ghosting": (ghosting, (0.2, 0.4, 0.6, 0.8, 1.0)),
}
