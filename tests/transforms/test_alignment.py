"""The second alignment of a pair: finds a small affine change across contrasts, and nothing in nothing."""

from __future__ import annotations

import numpy as np
import SimpleITK
import torch

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.transforms import AlignToTemplate
from robustmed_monai.transforms.alignment import align_affine, refine_affine, resample_to


def test_a_small_affine_change_is_found_across_contrasts() -> None:
    frame = AlignToTemplate(size=56, spacing=4.0, heights=(-72.0, 88.0))
    affine, image = frame.affine.numpy(), virtual_subject(0, 1).image[None]
    angle = np.deg2rad(4)
    change = np.eye(4)
    change[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    change[:3, 3] = (3.0, -4.0, 5.0)
    fixed = resample_to(image, AFFINE, frame.shape, affine)[0]
    moving = resample_to(image, AFFINE, frame.shape, affine, change)[0]
    moving = np.where(moving > 0.08, 1.1 - moving, moving)
    found = change @ refine_affine(moving, fixed, affine)
    places = np.array([[-50, 30, 40, 1], [50, -80, 0, 1], [0, 0, 70, 1], [10, -30, -40, 1]]).T
    left = np.linalg.norm((found @ places - places)[:3], axis=0)
    before = np.linalg.norm((change @ places - places)[:3], axis=0)
    # Half a voxel.
    assert left.max() < 2 < before.min()
    again = change @ refine_affine(moving, fixed, affine)
    assert np.array_equal(found, again), "same bits"


def test_nothing_stays_where_it_is() -> None:
    nothing = torch.zeros(24, 24, 24).numpy()
    np.testing.assert_array_equal(refine_affine(nothing, nothing, np.diag([4.0, 4.0, 4.0, 1.0])), np.eye(4))


def test_the_same_bits_by_any_number_of_threads() -> None:
    images = [virtual_subject(1, index).image[::2, ::2, ::2] for index in (0, 1)]
    affine = AFFINE @ np.diag([2.0, 2, 2, 1])
    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for threads in (1, 4, 4):
            SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(align_affine(images[0], affine, images[1], affine))
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert not np.array_equal(found[0], np.eye(4))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[1], found[2])
