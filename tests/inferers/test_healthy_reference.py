"""Maps relative to what healthy images of a site show at each place; made of other images than calibrate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustmed_monai.inferers.healthy_reference import (
    HealthyReference,
    ReferencedInferer,
    load_reference,
    make_reference,
    share_out,
)
from robustmed_monai.metrics.conformal import conformal_p_values
from robustmed_monai.utils.errors import ConfigError, CorruptImageError, DataError, ImageShapeError


def as_map(stack: torch.Tensor, network: Any) -> dict[str, torch.Tensor]:
    return {"anomaly_map": stack}


def reference(mean: torch.Tensor) -> HealthyReference:
    return HealthyReference(mean, 5, "reference.npz", "0" * 64)


def all_assessed(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "assessed_slices": list(range(data["image"].shape[-1]))}


def write(path: Path, stacks: dict[str, Any], sigma: float = 0.01) -> HealthyReference | None:
    def read(item: dict[str, Any]) -> dict[str, Any]:
        if isinstance(stacks[item["image"]], Exception):
            raise stacks[item["image"]]
        return {"image": stacks[item["image"]]}

    files = [{"image": name} for name in stacks]
    return make_reference(files, read, all_assessed, as_map, torch.nn.Identity(), path, sigma=sigma)


def test_maps_keep_their_unit_and_usual_places_weigh_less() -> None:
    stack = torch.rand(1, 1, 8, 8, 2)
    assert torch.equal(ReferencedInferer(as_map)(stack, torch.nn.Identity())["anomaly_map"], stack)
    even = ReferencedInferer(as_map, reference(torch.full((8, 8, 2), 0.3)))
    assert torch.allclose(even(stack, torch.nn.Identity())["anomaly_map"], stack)
    mean = torch.full((8, 8, 2), 0.3)
    mean[0], mean[1] = 0.9, 0.0
    found = ReferencedInferer(as_map, reference(mean))(torch.ones_like(stack), torch.nn.Identity())[
        "anomaly_map"
    ][0, 0]
    assert (found[0] < found[2]).all()
    # Where healthy images show nothing the floor bounds what a place can weigh.
    assert (found[2] < found[1]).all()
    assert found.max() <= 3.0


def test_another_frame_is_refused() -> None:
    inferer = ReferencedInferer(as_map, reference(torch.ones(8, 8, 2)))
    with pytest.raises(ImageShapeError, match=r"\(8, 8, 3\) for a healthy reference of \(8, 8, 2\)"):
        inferer(torch.ones(1, 1, 8, 8, 3), torch.nn.Identity())
    with pytest.raises(ConfigError, match="floor=0"):
        ReferencedInferer(as_map, floor=0)


def test_the_file_holds_the_mean_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    path, site = tmp_path / "reference.npz", tmp_path / "site.json"
    stacks: dict[str, Any] = {str(i): torch.full((1, 4, 4, 2), float(i)) for i in range(3)}
    made = write(path, {**stacks, "bad": CorruptImageError("bad: no image.")})
    assert made is not None
    assert made.images == 3
    assert torch.allclose(made.mean, torch.ones(4, 4, 2))
    site.write_text(json.dumps({"reference": made.entry()}))
    found = load_reference(site)
    assert found is not None
    assert torch.equal(found.mean, made.mean)
    assert load_reference(None) is None
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="missing or was changed"):
        load_reference(site)
    site.write_text(json.dumps({"reference": None}))
    assert load_reference(site) is None


def test_where_no_image_was_assessed_maps_stay(tmp_path: Path) -> None:
    def first_alone(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "assessed_slices": [0]}

    stacks = {str(i): torch.rand(1, 4, 4, 2) for i in range(3)}
    made = make_reference(
        [{"image": name} for name in stacks],
        lambda item: {"image": stacks[item["image"]]},
        first_alone,
        as_map,
        torch.nn.Identity(),
        tmp_path / "reference.npz",
    )
    stack = torch.rand(1, 1, 4, 4, 2)
    found = ReferencedInferer(as_map, made)(stack, torch.nn.Identity())["anomaly_map"]
    assert torch.allclose(found[..., 1], stack[..., 1])
    assert not torch.allclose(found[..., 0], stack[..., 0])


def test_images_in_no_frame_and_no_image_at_all_make_none(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    with pytest.raises(ImageShapeError, match="needs one frame"):
        write(path, {"a": torch.ones(1, 4, 4, 2), "b": torch.ones(1, 4, 4, 3)})
    assert write(path, {}) is None
    with pytest.raises(DataError, match="no slice of 1 images was assessed"):
        write(path, {"bad": CorruptImageError("bad: no image.")})
    assert not path.exists()


def test_no_image_makes_the_reference_and_calibrates() -> None:
    files = [{"image": str(i)} for i in range(11)]
    for share in (0.0, 0.3, 0.5):
        parts = [{item["image"] for item in share_out(files, share, part)} for part in (True, False)]
        assert not parts[0] & parts[1]
        assert len(parts[0] | parts[1]) == 11
        assert len(parts[0]) == round(share * 11)
    with pytest.raises(ConfigError, match="reference_share=1"):
        share_out(files, 1, True)


def test_p_values_of_relative_maps_hold_their_promise(tmp_path: Path) -> None:
    """P(p <= a) <= a for healthy images whose maps differ by place; the reference is of other images."""
    rng = np.random.default_rng(0)
    usual = torch.from_numpy(rng.uniform(0.2, 2, (1, 6, 6, 1)).astype(np.float32))

    def heads(count: int) -> torch.Tensor:
        return usual * torch.from_numpy(rng.gamma(2, 1, (count, 1, 6, 6, 1)).astype(np.float32))

    below = {0.1: 0, 0.25: 0}
    for turn in range(60):
        stacks = {str(i): head for i, head in enumerate(heads(10))}
        made = write(tmp_path / f"{turn}.npz", stacks)
        inferer = ReferencedInferer(as_map, made)
        scores = [
            inferer(head[None], torch.nn.Identity())["anomaly_map"].amax((1, 2, 3, 4)).item()
            for head in heads(19 + 50)
        ]
        p = conformal_p_values(scores[:19], scores[19:])
        below = {a: n + int((p <= a).sum()) for a, n in below.items()}
    for a, count in below.items():
        # Images of a turn share its calibration: a turn's rate spreads by about sqrt(a (1 - a) / 20).
        assert count / 3000 <= a + 3 * (a * (1 - a) / 20 / 60) ** 0.5
