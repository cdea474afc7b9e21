"""Figures of scorers on slices made by hand, where they are known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.inferers.controls import brain_area, brain_intensity, slice_position
from robustmed_monai.inferers.pchvae import ElboInferer
from robustmed_monai.metrics.bootstrap import Estimate
from robustmed_monai.metrics.pchvae import (
    Figures,
    NetworkScorer,
    detection_figures,
    measure_scorer,
    score_all,
    vae_pictures,
)
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


def values(figures: Figures) -> dict[str, float]:
    return {k: v.value if isinstance(v, Estimate) else v for k, v in figures.items()}


def test_controls_see_what_they_look_at() -> None:
    for control in (brain_intensity, slice_position, brain_area):
        result = measure_scorer(control, data(), {"lesions": data()})
        figures = values(dict(result.figures))
        assert figures["lesions_auroc"] == figures["lesions_ap"] == figures["mean_auroc"] == 1.0, control
        assert isinstance(result.figures["lesions_auroc"], Estimate)
        assert ("lesions_pixel_ap_intensity" in figures) == (control is brain_intensity)
        assert "mse" not in figures, "it reconstructs nothing"


def test_scores_and_signed_maps_are_named() -> None:
    def scorer(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        score = batch["image"].flatten(1).mean(1)
        signed = -2 * batch["mask"] + 0.5 * batch["brain"]
        return {"score_elbo": score, "score_kl": -score, "map_low": signed}

    figures = values(detection_figures(score_all(scorer, data()), data(), "t"))
    assert (figures["t_auroc"], figures["t_auroc_kl"]) == (1.0, 0.0)
    assert figures["t_pixel_ap_low"] == 1.0, "a map counts by its size"


def test_network() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = pchvae(channels=(4, 6, 6, 8))
    scorer = NetworkScorer(network.eval(), ElboInferer(maps=("residual", "low")))
    result = measure_scorer(scorer, data(), {"t": data()})
    figures = values(dict(result.figures))
    expected = (network(data().tensors["image"][:4]) - data().tensors["image"][:4]).square().mean()
    assert figures["mse"] == pytest.approx(expected.item(), rel=1e-5)
    assert {"t_auroc_high", "t_pixel_ap_residual", "t_pixel_ap_low"} < set(figures)
    control = measure_scorer(brain_area, data(), {"t": data()})
    assert set(vae_pictures({"net": [result], "area": [control]})) >= {"t_curves", "t_components"}


def test_one_kind_alone_is_refused() -> None:
    healthy = TensorDataset({k: v[:4] for k, v in data().tensors.items()})
    with pytest.raises(DataError, match="t: 0 of 4 slices are abnormal; give both kinds"):
        detection_figures(score_all(brain_area, healthy), healthy, "t")
