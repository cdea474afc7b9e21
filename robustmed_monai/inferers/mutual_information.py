"""Classical registration across contrasts: B-splines driven by mutual information, by SimpleITK."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from robustmed_monai.transforms.alignment import to_itk
from robustmed_monai.transforms.field_files import PICTURE_AFFINE
from robustmed_monai.utils.errors import ConfigError, ImageError

Array = npt.NDArray[Any]


class MutualInformationRegistration:
    """Registers pairs one by one with a B-spline transform that maximises Mattes mutual information.

    The comparison that needs no training. Deterministic: the measure looks at every voxel.

    Args:
        control_points: intervals of the B-spline grid along each axis.
        bins: bins of the histogram.
        iterations: largest number of steps of L-BFGS-B at each of the two levels of resolution.

    Source: Mattes et al., "PET-CT image registration in the chest using free-form deformations", TMI 2003.
    """

    def __init__(self, control_points: int = 8, bins: int = 32, iterations: int = 50) -> None:
        if control_points < 1 or bins < 5 or iterations < 1:
            raise ConfigError(
                f"control_points={control_points}, bins={bins}, iterations={iterations}; give at least 1 "
                "control point, 5 bins and 1 iteration."
            )
        self.control_points = control_points
        self.bins = bins
        self.iterations = iterations

    def __call__(self, moving: torch.Tensor, fixed: torch.Tensor) -> dict[str, torch.Tensor]:
        """Register a batch.

        Args:
            moving: (B, 1, *S).
            fixed: (B, 1, *S).

        Returns:
            `ddf` (B, d, *S) in voxels. A pair that cannot be registered (a blank image) is left as it is.
        """
        pairs = zip(moving[:, 0].cpu().numpy(), fixed[:, 0].cpu().numpy(), strict=True)
        shown = tqdm(pairs, total=len(moving), desc="mutual information", leave=False, disable=None)
        fields = [self._register(first, second) for first, second in shown]
        return {"ddf": torch.from_numpy(np.stack(fields)).to(moving.device, torch.float32)}

    def _register(self, moving: Array, fixed: Array) -> Array:
        import SimpleITK

        if float(np.ptp(fixed)) == 0 or float(np.ptp(moving)) == 0:
            return np.zeros((fixed.ndim, *fixed.shape), np.float32)
        # A picture's points are its voxels.
        target, source = to_itk(fixed, PICTURE_AFFINE), to_itk(moving, PICTURE_AFFINE)
        method = SimpleITK.ImageRegistrationMethod()
        # Several threads sum in an order of their own each time: fields then differ by up to a voxel.
        method.SetNumberOfWorkUnits(1)
        method.SetMetricAsMattesMutualInformation(self.bins)
        method.SetMetricSamplingStrategy(method.NONE)
        method.SetInterpolator(SimpleITK.sitkLinear)
        method.SetOptimizerAsLBFGSB(1e-5, self.iterations, 5, 4 * self.iterations, 1e7)
        method.SetShrinkFactorsPerLevel([2, 1])
        method.SetSmoothingSigmasPerLevel([1, 0])
        start = SimpleITK.BSplineTransformInitializer(target, [self.control_points] * fixed.ndim, 3)
        method.SetInitialTransform(start, inPlace=False)
        try:
            found = method.Execute(target, source)
        except RuntimeError as error:
            raise ImageError(
                f"mutual information: a pair cannot be registered ({str(error).strip().splitlines()[-1]}); "
                "look at the images."
            ) from error
        field = SimpleITK.TransformToDisplacementField(found, SimpleITK.sitkVectorFloat64, target.GetSize())
        return SimpleITK.GetArrayFromImage(field).T.astype(np.float32)
