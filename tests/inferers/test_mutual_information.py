"""The classical comparison: it finds a known warp whatever the contrast."""

from __future__ import annotations

import pytest
import SimpleITK
import torch
from torch.nn import functional as F

from robustmed_monai.inferers.mutual_information import MutualInformationRegistration
from robustmed_monai.transforms.fields import warp
from robustmed_monai.utils.errors import ConfigError


def test_undoes_a_shift_in_an_inverted_image_and_leaves_blank_ones() -> None:
    fixed = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    fixed = F.interpolate(fixed, (32, 32), mode="bicubic").clamp(0, 1)
    fixed[1] = 0
    shift = torch.zeros(2, 2, 32, 32)
    shift[:, 0] = 1.5
    moving = warp(fixed, shift, padding_mode="border")
    register = MutualInformationRegistration(control_points=3, iterations=20)
    found = register(moving, 1 - fixed)["ddf"]
    inside = (0, slice(None), slice(6, -6), slice(6, -6))
    assert (found + shift)[inside].abs().mean() < 0.4
    assert not found[1].any()
    assert torch.equal(found, register(moving, 1 - fixed)["ddf"])


def test_same_bits_whatever_the_number_of_threads() -> None:
    noise = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    moving, fixed = F.interpolate(noise, (96, 96), mode="bicubic").clamp(0, 1)[:, None]
    register = MutualInformationRegistration(control_points=6, iterations=40)
    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for threads in (1, 4, 4):
            SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(register(moving, 1 - fixed)["ddf"])
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert found[0].abs().max() > 0.5
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError):
        MutualInformationRegistration(control_points=0)
