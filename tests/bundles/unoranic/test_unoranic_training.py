"""Training by the configs: what it leaves, controls, schedules, exact resume, two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from robustmed_monai.networks.unoranic import UNORANIC, AutoEncoder
from robustmed_monai.utils.files import sha256
from robustmed_monai.utils.weights import load_info, load_into

Overrides = dict[str, Any]


def _checkpoint(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return content


def _item(done: ConfigWorkflow, key: str) -> Any:
    return done.parser.get_parsed_content(key)


class TestOutputs:
    def test_are_weights_checkpoint_and_curves(self, trained_nets: dict[str, Path], tiny: Overrides) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        folder = trained_nets["train"]
        assert {"model.pt", "model.json", "checkpoint.pt"} <= {p.name for p in folder.iterdir()}
        info = load_info(folder / "model.pt")
        assert (info["dataset"], info["scaling"], info["seed"]) == ("pneumoniamnist", "full_scale", 0)
        assert info["metric"] == "val_mse"
        assert info["epoch"] in (2, 4)
        load_into(UNORANIC(1, 28, tiny["channels"]), folder / "model.pt")
        events = EventAccumulator(str(folder))
        events.Reload()
        terms = {"all_anatomy", "all_image", "all_consistency", "loss", "val_anatomy_psnr", "val_full_psnr"}
        assert terms <= set(events.Tags()["scalars"])

    @pytest.mark.parametrize(("name", "method"), [("ae", "AE"), ("dae", "denoising AE")])
    def test_of_the_controls(
        self, trained_nets: dict[str, Path], tiny: Overrides, name: str, method: str
    ) -> None:
        assert load_info(trained_nets[name] / "model.pt")["method"] == method
        load_into(AutoEncoder(1, 28, tiny["channels"]), trained_nets[name] / "model.pt")


class TestRuns:
    def test_resume_is_exact(
        self, unoranic: Any, tiny: Overrides, trained_nets: dict[str, Path], tmp_path: Path
    ) -> None:
        def cut(made: ConfigWorkflow) -> None:
            def stop(_: Any) -> None:
                raise InterruptedError

            _item(made, "train#trainer").add_event_handler(Events.ITERATION_COMPLETED(once=8), stop)

        with pytest.raises(RuntimeError):
            unoranic("train.json", tiny, output_dir=str(tmp_path), before_run=cut)
        assert _checkpoint(tmp_path)["epoch"] == 2
        unoranic("train.json", tiny, output_dir=str(tmp_path), resume=True)
        assert sha256(tmp_path / "model.pt") == sha256(trained_nets["train"] / "model.pt")
        one, two = (_checkpoint(f)["state"] for f in (tmp_path, trained_nets["train"]))
        for key, value in one["network"].items():
            assert torch.equal(value, two["network"][key]), key
        assert one["scheduler"]["last_epoch"] == two["scheduler"]["last_epoch"] == 12

    def test_another_seed_gives_other_weights(
        self, unoranic: Any, tiny: Overrides, trained_nets: dict[str, Path], tmp_path: Path
    ) -> None:
        unoranic("train.json", tiny, output_dir=str(tmp_path), seed=1)
        assert sha256(tmp_path / "model.pt") != sha256(trained_nets["train"] / "model.pt")

    def test_pca_variant(self, unoranic: Any, tiny: Overrides, tmp_path: Path) -> None:
        small = {"network_def#latent_size": 8, "hidden": 8, "max_epochs": 2}
        done = unoranic(["train.json", "pca.json"], tiny | small, output_dir=str(tmp_path))
        network = _item(done, "network")
        load_into(network, tmp_path / "model.pt")
        assert load_info(tmp_path / "model.pt")["method"] == "PCA variant"
        assert network.anatomy(torch.rand(2, 1, 28, 28)).shape == (2, 8)

    def test_colour_and_five_classes(self, unoranic: Any, tiny: Overrides, tmp_path: Path) -> None:
        done = unoranic(
            "train.json", tiny | {"dataset": "retinamnist", "max_epochs": 1}, output_dir=str(tmp_path)
        )
        assert _item(done, "network_def").anatomy_encoder.shape == (3, 28, 28)

    @pytest.mark.parametrize("key", ["max_epochs", "train#trainer#max_epochs"])
    def test_slices_of_a_datalist(
        self, unoranic: Any, tiny: Overrides, dataset_dir: Path, tmp_path: Path, key: str
    ) -> None:
        overrides = tiny | {"dataset": None, "dataset_dir": str(dataset_dir), "batch_size": 4}
        del overrides["max_epochs"]
        unoranic("train.json", overrides, output_dir=str(tmp_path), **{key: 1})
        info = load_info(tmp_path / "model.pt")
        assert (info["dataset"], info["scaling"], info["epoch"]) == ("datalist", "percentile", 1)

    @pytest.mark.parametrize("task", ["disease", "corruption"])
    def test_the_supervised_control(self, unoranic: Any, tiny: Overrides, tmp_path: Path, task: str) -> None:
        del tiny["channels"]
        tiny |= {"max_epochs": 1, "task": task, "network_def#widen_factor": 0.125}
        done = unoranic("train_supervised.json", tiny, output_dir=str(tmp_path))
        assert load_info(tmp_path / "model.pt")["task"] == task
        assert _item(done, "train#trainer").state.output["pred"].shape[1] == 2


class TestSchedules:
    def _rates(
        self, made: Any, tiny: Overrides, tmp_path: Path, files: list[str], **more: Any
    ) -> list[float]:
        rates: list[float] = []

        def watch(done: ConfigWorkflow) -> None:
            optimizer = _item(done, "optimizer")
            _item(done, "train#trainer").add_event_handler(
                Events.ITERATION_STARTED, lambda _: rates.append(optimizer.param_groups[0]["lr"])
            )

        made(files, tiny | more, output_dir=str(tmp_path), before_run=watch)
        return rates

    def test_a_cosine_over_the_iterations(self, unoranic: Any, tiny: Overrides, tmp_path: Path) -> None:
        rates = self._rates(unoranic, tiny, tmp_path, ["train.json"], max_epochs=10, val_interval=10)
        assert len(rates) == 30
        top = rates.index(max(rates))
        assert 1 <= top <= 4
        assert rates[0] < rates[top]
        assert 0 < rates[-1] < 0.02 * rates[top]
        assert all(a > b for a, b in zip(rates[top:], rates[top + 1 :], strict=False))

    def test_the_paper_s_steps_per_epoch_or_per_iteration(
        self, unoranic: Any, tiny: Overrides, tmp_path: Path
    ) -> None:
        files = ["train.json", "paper.json"]
        coded = self._rates(unoranic, tiny, tmp_path, files)
        # Three iterations per epoch share a rate; half a cycle is 5 x 3 epochs.
        expected = [1e-4 + (1e-2 - 1e-4) * epoch / 15 for epoch in range(4) for _ in range(3)]
        assert coded == pytest.approx(expected)
        meant = self._rates(unoranic, tiny, tmp_path, files, lr_per_epoch=False)
        assert meant == pytest.approx([1e-4 + (1e-2 - 1e-4) * step / 15 for step in range(12)])

    def test_the_paper_keeps_its_last_weights(self, unoranic: Any, tiny: Overrides, tmp_path: Path) -> None:
        done = unoranic(
            ["train.json", "paper.json"],
            tiny | {"max_epochs": 3, "val_interval": 1},
            output_dir=str(tmp_path),
        )
        assert load_info(tmp_path / "model.pt")["epoch"] == 3
        assert not _item(done, "loss").views_at_once
