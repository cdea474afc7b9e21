from __future__ import annotations

import ignite.distributed as idist
import pytest
import torch

from robustmed_monai.transforms.corruption.combine import chain, one_of
from robustmed_monai.transforms.corruption.core import identity
from robustmed_monai.transforms.corruption.noise import gaussian_noise
from robustmed_monai.transforms.corruption.tone import invert
from robustmed_monai.transforms.corruption.unoranic import unoranic_chain, unoranic_detection
from robustmed_monai.transforms.corruption.views import CorruptedOrNot, CorruptedViews
from robustmed_monai.utils.errors import ConfigError


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestViews:
    def test_are_independent_and_leave_the_image_alone(self) -> None:
        image = torch.rand(4, 1, 28, 28, generator=_generator(1))
        before = image.clone()
        batch = CorruptedViews(gaussian_noise(0.1), variants=3)({"image": image}, _generator())
        assert batch["corrupted"].shape == (16, 1, 28, 28)
        views = batch["corrupted"].unflatten(0, (4, 4))
        assert torch.equal(batch["image"], before)
        noise = (views - image).flatten(2)
        close = torch.corrcoef(noise.flatten(0, 1))
        assert (close - torch.eye(16)).abs().max() < 0.3

    def test_every_view_shows_its_own_image(self) -> None:
        image = torch.linspace(0, 1, 6).view(6, 1, 1, 1).expand(6, 1, 4, 4)
        batch = CorruptedViews(identity(), variants=2)({"image": image}, _generator())
        assert all(torch.equal(view, image) for view in batch["corrupted"].split(6))

    def test_same_seed_same_bits(self) -> None:
        image = torch.rand(4, 3, 28, 28)
        views = CorruptedViews(unoranic_chain())
        one, two, other = (views({"image": image}, _generator(s))["corrupted"] for s in (3, 3, 4))
        assert torch.equal(one, two)
        assert not torch.equal(one, other)

    def test_gates_tell_what_was_done_to_the_first(self) -> None:
        image = torch.rand(40, 1, 8, 8, generator=_generator(1))
        views = CorruptedViews(chain([invert(), identity()], prob=0.5), variants=2)
        batch = views({"image": image}, _generator())
        done = batch["gates"][:, 0] == 1
        assert 5 < done.sum() < 35
        first = batch["corrupted"][:40]
        torch.testing.assert_close(first[done], 1 - image[done])
        assert torch.equal(first[~done], image[~done])
        assert "gates" not in CorruptedViews(invert())({"image": image}, _generator())

    def test_none_beside_the_first(self) -> None:
        batch = CorruptedViews(unoranic_chain(), variants=0)(
            {"image": torch.rand(2, 1, 28, 28), "label": torch.zeros(2)}, _generator()
        )
        assert set(batch) == {"image", "label", "corrupted", "gates"}
        with pytest.raises(ConfigError, match="variants=-1"):
            CorruptedViews(unoranic_chain(), variants=-1)

    def test_processes_share_the_views_of_the_global_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image = torch.rand(6, 3, 28, 28, generator=_generator(1))
        views = CorruptedViews(unoranic_chain(), variants=2)
        whole = views({"image": image}, _generator())
        monkeypatch.setattr(idist, "get_world_size", lambda: 2)
        monkeypatch.setattr(idist, "get_rank", lambda: 1)
        part = views({"image": image[1::2]}, _generator())
        assert torch.equal(part["corrupted"], whole["corrupted"][1::2])
        assert torch.equal(part["gates"], whole["gates"][1::2])


class TestCorruptedOrNot:
    def test_labels_say_what_was_done(self) -> None:
        image = torch.rand(64, 1, 8, 8)
        batch = CorruptedOrNot(one_of([invert()], prob=0.5))({"image": image}, _generator())
        changed = (batch["image"] != image).flatten(1).any(1)
        assert torch.equal(changed.long(), batch["label"])
        assert 20 < int(batch["label"].sum()) < 44

    def test_the_task_of_the_paper(self) -> None:
        task = CorruptedOrNot(unoranic_detection())
        batch = task({"image": torch.rand(200, 1, 28, 28)}, _generator())
        assert 70 < int(batch["label"].sum()) < 130

    def test_a_chain_counts_as_corrupted_once_any_link_acts(self) -> None:
        task = CorruptedOrNot(chain([invert(), gaussian_noise(0.1)], prob=1.0))
        assert task({"image": torch.rand(3, 1, 8, 8)}, _generator())["label"].tolist() == [1, 1, 1]
