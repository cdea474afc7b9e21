"""Training through the server: the labelled studies become a datalist, and the bundle's train config runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from robustmed_monai.utils.errors import DataError, TrainingError
from robustmed_monai.utils.files import write_json
from robustmed_monai.utils.weights import load_info, load_weights, save_weights

_SETTINGS = ("max_epochs", "batch_size", "learning_rate", "seed")


class BundleTrainTask(TrainTask):
    """Runs a bundle's train config on the labelled images of the datastore.

    The training is a process of its own: MONAI Label's list of tasks shows its output, and stopping the task
    ends it.

    Args:
        description: one sentence for users.
        root: folder of the bundle.
        output: folder for the run.
        trained: weights file to write when the training has come to its end.
    """

    def __init__(self, description: str, root: Path, output: Path, trained: Path) -> None:
        super().__init__(description)
        self.config_file = root / "configs" / "train.json"
        self.root = root
        self.output = output
        self.trained = trained

    def config(self) -> dict[str, Any]:
        """Settings of the train config that a request may change, with their values."""
        given = ConfigParser.load_config_file(self.config_file)
        return {key: given[key] for key in _SETTINGS if key in given}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train.

        Args:
            request: any of the settings that ``config`` lists.
            datastore: the studies; those with a final label are trained on, every fifth of them validates.

        Returns:
            Where the weights are, and how many images were used.

        Raises:
            DataError: with fewer than two labelled images.
            TrainingError: when the training fails; its output says why.
        """
        items = sorted(datastore.datalist(), key=lambda item: str(item["image"]))
        if len(items) < 2:
            raise DataError(
                f"{len(items)} image(s) have a final label; label at least two, one of which validates."
            )
        held = items[::5]
        sections = {"training": [item for item in items if item not in held], "validation": held}
        datalist = write_json(self.output / "datalist.json", {"name": "MONAI Label", **sections})
        run = self.output / "run"
        shutil.rmtree(run, ignore_errors=True)
        numbers = {key: type(default)(request.get(key, default)) for key, default in self.config().items()}
        settings = numbers | {"dataset_dir": datalist, "output_dir": run}
        # Nothing that the command is given is evaluated.
        command = [sys.executable, "-m", "robustmed_monai.cli", "train", self.root.name]
        for key, value in settings.items():
            command += [f"--{key}", str(value)]
        code = subprocess.run(command, check=False).returncode
        if code != 0:
            raise TrainingError(f"{self.root.name}: the training ended with code {code}; see its output.")
        new = run / "model.pt"
        save_weights(load_weights(new), self.trained, load_info(new))
        return {"weights": str(self.trained), **{key: len(part) for key, part in sections.items()}}
