from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data.utils import decollate_batch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from robustmed_monai.handlers.anomaly_images import AnomalyImageHandler
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.visualize import anomaly_sheet, to_array


def batches(masked: bool = True) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    data = []
    for size in (2, 3):
        image = torch.rand(size, 1, 16, 12, generator=generator)
        mask = (image > 0.8).float() if masked else None
        data.append(
            {"image": image, "pred": image * 0.5, "anomaly_map": image * 0.1, "mask": mask, "loss": 1.0}
        )
    return data


def evaluator() -> Engine:
    return Engine(lambda engine, batch: batch)


def expected(data: list[dict[str, Any]], n: int, **kwargs: Any) -> np.ndarray:
    keys = {"image": "images", "pred": "pseudo_healthy", "anomaly_map": "maps", "mask": "masks"}
    given: dict[str, Any] = {
        name: torch.cat([batch[key] for batch in data])[:n]
        for key, name in keys.items()
        if data[0][key] is not None
    }
    return to_array(anomaly_sheet(**given, **kwargs))


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("masked", [True, False])
def test_png_is_the_sheet_of_the_first_cases_across_batches(tmp_path: Path, masked: bool) -> None:
    engine, data = evaluator(), batches(masked)
    AnomalyImageHandler(vmax=0.2, output_dir=tmp_path, max_cases=3, threshold=0.05).attach(engine)
    engine.run(data)
    np.testing.assert_array_equal(
        read(tmp_path / "anomaly_0001.png"), expected(data, 3, vmax=0.2, threshold=0.05)
    )


def test_decollated_output_gives_the_same_picture(tmp_path: Path) -> None:
    engine, data = evaluator(), batches()
    AnomalyImageHandler(vmax=0.2, output_dir=tmp_path).attach(engine)
    engine.run([decollate_batch(batch) for batch in data])
    np.testing.assert_array_equal(read(tmp_path / "anomaly_0001.png"), expected(data, 4, vmax=0.2))


def test_every_epoch_has_its_picture_under_the_trainers_epoch_with_the_same_colours(tmp_path: Path) -> None:
    engine, data = evaluator(), batches()
    epoch = 7
    handler = AnomalyImageHandler(
        vmax=0.2, output_dir=tmp_path, tag="val", max_cases=1, global_epoch_transform=lambda _: epoch
    )
    handler.attach(engine)
    engine.run(data)
    epoch = 12
    brighter = [batch | {"anomaly_map": batch["anomaly_map"] * 3} for batch in data]
    engine.run(brighter)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["val_0007.png", "val_0012.png"]
    np.testing.assert_array_equal(read(tmp_path / "val_0007.png"), expected(data, 1, vmax=0.2))
    np.testing.assert_array_equal(read(tmp_path / "val_0012.png"), expected(brighter, 1, vmax=0.2))


def test_tensorboard_gets_the_same_picture(tmp_path: Path) -> None:
    engine, data = evaluator(), batches()
    with SummaryWriter(str(tmp_path)) as writer:
        AnomalyImageHandler(vmax=0.2, summary_writer=writer, max_cases=2).attach(engine)
        engine.run(data)
    events = EventAccumulator(str(tmp_path), {"images": 0}).Reload()
    (event,) = events.Images("anomaly")
    assert event.step == 1
    encoded = tmp_path / "event.png"
    encoded.write_bytes(event.encoded_image_string)
    np.testing.assert_array_equal(read(encoded), expected(data, 2, vmax=0.2))


def test_an_output_without_the_map_is_refused(tmp_path: Path) -> None:
    batch = {key: value for key, value in batches()[0].items() if key != "anomaly_map"}
    for output in (batch, decollate_batch(batch)):
        engine = evaluator()
        AnomalyImageHandler(vmax=1.0, output_dir=tmp_path).attach(engine)
        with pytest.raises(ConfigError, match="the engine's output has no anomaly_map, only"):
            engine.run([output])


@pytest.mark.parametrize(
    ("arguments", "message"), [({}, "nowhere to write"), ({"output_dir": ".", "max_cases": 0}, "max_cases=0")]
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnomalyImageHandler(vmax=1.0, **arguments)
