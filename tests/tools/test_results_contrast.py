"""The table of contrasts: what each virtual head looks like, and a volume that cannot be aligned."""

from __future__ import annotations

import numpy as np
import pytest

from robustmed_monai.transforms import OODSlicesd
from robustmed_monai.transforms.tissue_priors import tissue_priors
from tools import results_contrast


@pytest.mark.slow
def test_virtual_heads_look_like_what_they_are() -> None:
    frame = results_contrast.FRAMES["ra"]
    priors = tissue_priors(frame.shape, frame.affine)
    wanted = {"T1": "T1", "inverted T1": "T2", "painted T2": "T2", "painted FLAIR": "FLAIR"}
    found = {
        row.removeprefix("virtual, "): results_contrast.look(image, place, OODSlicesd("image", None), priors)
        for row, image, place in results_contrast.virtual(1)
    }
    assert list(found) == list(wanted)
    for row, verdict in wanted.items():
        assert [name for name in results_contrast.VERDICTS if found[row][name]] == [verdict]
        assert found[row]["refused"] == found[row]["refused_pchvae"] == (verdict != "T1")


def test_what_is_no_head_counts_as_an_image_alone() -> None:
    noise = results_contrast.volume(np.random.default_rng(0).random((20, 20, 20)), np.diag([8.0, 8, 8, 1]))
    check = OODSlicesd("image", None)
    assert results_contrast.look(noise, None, check, np.zeros((4, 1, 1, 1))) == {"images": 1}
