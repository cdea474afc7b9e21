"""Figures of judges on slices made by hand, where they are known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.engines.elbo_study import (
    control_judges,
    judge_all,
    measure,
    network_judge,
    reconstruction_error,
)
from robustmed_monai.inferers.pchvae import ElboInferer
from robustmed_monai.networks.pchvae import pchvae
from robustmed_monai.utils.errors import DataError


def data() -> TensorDataset:
    """Six slices; the last two have a bright lesion, lie in the middle and show a larger brain."""
    image = torch.full((6, 1, 16, 16), -1.5)
    brain = torch.zeros(6, 1, 16, 16)
    brain[:4, :, 4:12, 4:12], brain[4:, :, 3:13, 3:13] = 1, 1
    image[brain > 0] = 0
    mask = torch.zeros(6, 1, 16, 16)
    mask[4:, :, 6:9, 6:9] = 1
    image[mask > 0] = 1.0
    position = torch.tensor([0.1, 0.2, 0.9, 0.8, 0.5, 0.6])
    healthy = torch.tensor([True] * 4 + [False] * 2)
    tensors = {"image": image, "brain": brain, "mask": mask, "position": position, "healthy": healthy}
    return TensorDataset(tensors)


def test_controls_see_what_they_look_at() -> None:
    for name, judge in control_judges().items():
        figures, intervals = measure(judge_all(judge, data(), batch_size=4), data(), "lesions")
        assert figures["lesions_auroc"] == figures["lesions_ap"] == 1.0, name
        assert set(intervals) == {"lesions_auroc", "lesions_ap"}
        assert ("lesions_pixel_ap_intensity" in figures) == (name == "mean intensity")
    assert measure(judge_all(control_judges()["mean intensity"], data()), data(), "x")[0] == {
        "x_auroc": 1.0,
        "x_ap": 1.0,
        "x_pixel_ap_intensity": 1.0,
    }


def test_scores_and_signed_maps_are_named() -> None:
    def judge(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        score = batch["image"].flatten(1).mean(1)
        signed = -2 * batch["mask"] + 0.5 * batch["brain"]
        return {"score_elbo": score, "score_kl": -score, "map_low": signed}

    figures, _ = measure(judge_all(judge, data()), data(), "t")
    assert (figures["t_auroc"], figures["t_auroc_kl"]) == (1.0, 0.0)
    assert figures["t_pixel_ap_low"] == 1.0, "a map counts by its size"


def test_network() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = pchvae(channels=(4, 6, 6, 8))
    judge = network_judge(network, ElboInferer(maps=("residual", "low")))
    found = judge_all(judge, data(), batch_size=4)
    assert found["pred"].shape == (6, 1, 16, 16)
    expected = (network(data().tensors["image"][:4]) - data().tensors["image"][:4]).square().mean()
    assert reconstruction_error(found, data()) == pytest.approx(expected.item(), rel=1e-5)
    assert {"t_auroc_high", "t_pixel_ap_residual", "t_pixel_ap_low"} < set(measure(found, data(), "t")[0])


def test_one_kind_alone_is_refused() -> None:
    healthy = TensorDataset({k: v[:4] for k, v in data().tensors.items()})
    found = judge_all(control_judges()["brain area"], healthy)
    with pytest.raises(DataError, match="t: 0 of 4 slices are abnormal; give both kinds"):
        measure(found, healthy, "t")
