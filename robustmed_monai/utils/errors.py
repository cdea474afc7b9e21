"""The one exception family of the package: every message names the culprit, what was found and what to do."""

from __future__ import annotations


class RobustMedError(Exception):
    """Base of every error that this package raises on purpose."""


class ImageError(RobustMedError):
    """An image file or array cannot be used."""


class CorruptImageError(ImageError):
    """An image file is damaged, truncated or not of the type its name says."""


class NonFiniteImageError(ImageError):
    """An image holds NaN or infinite values and the policy is to refuse them."""


class GeometryError(ImageError):
    """The affine of an image is not finite, singular or contradicts itself."""


class ImageShapeError(ImageError):
    """An image has the wrong number of dimensions, channels or voxels."""


class DataError(RobustMedError):
    """A data set, datalist or official download is missing files or inconsistent."""


class WeightsError(RobustMedError):
    """A weight or checkpoint file is missing, altered or does not fit the network."""


class ConfigError(RobustMedError):
    """A setting is unknown or out of range."""


class RequestError(RobustMedError):
    """A request to a server is refused.

    Args:
        status: HTTP status of the answer, such as 403.
        reason: what was found and what to do.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class TrainingError(RobustMedError):
    """A training run cannot go on."""


class NonFiniteLossError(TrainingError):
    """A loss term became NaN or infinite."""


def original_error(error: BaseException) -> BaseException:
    """The error behind one that MONAI raised from it: the first of this package, or else the innermost."""
    cause = error
    while not isinstance(cause, RobustMedError) and cause.__cause__ is not None:
        cause = cause.__cause__
    return cause
