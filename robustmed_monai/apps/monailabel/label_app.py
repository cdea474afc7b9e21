"""The MONAI Label app: bundles as models, as active learning strategies and, from labels, as trainings."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import monailabel.app
import torch
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.random import Random

from robustmed_monai.apps.monailabel.answers import answer_bad_requests
from robustmed_monai.apps.monailabel.infer_task import BundleInferTask
from robustmed_monai.apps.monailabel.methods import METHODS, Report, weight_files
from robustmed_monai.apps.monailabel.train_task import BundleTrainTask
from robustmed_monai.apps.monailabel.urgency import HighestScoreFirst
from robustmed_monai.utils.bundle import bundle_root, open_output_dir
from robustmed_monai.utils.errors import ConfigError, ImageError

logger = logging.getLogger(__name__)


class RobustMedApp(MONAILabelApp):
    """Serves the bundles that are there and have weights.

    Args:
        app_dir: folder of ``main.py``.
        studies: folder of the images, or the address of a DICOMweb server.
        conf: ``models``, names with commas between them, default all; ``output``, folder for trained weights,
            default ``out/monailabel`` below the working directory.

    Raises:
        ConfigError: for an unknown model in ``models``.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        names = [name.strip() for name in conf.get("models", ",".join(METHODS)).split(",")]
        unknown = [name for name in names if name not in METHODS]
        if unknown:
            raise ConfigError(f"--conf models: there is no {unknown[0]!r}; choose of {list(METHODS)}.")
        self.roots = {name: root for name in names if (root := _folder(name))}
        self.output = Path(open_output_dir(conf.get("output", "out/monailabel")))
        super().__init__(
            app_dir,
            studies,
            conf,
            name="robustmed_monai",
            description="Anomalies, corruptions, rotations and contrasts: methods that notice unusual images",
        )
        answer_bad_requests(monailabel.app.app, self.known)

    def init_infers(self) -> dict[str, BundleInferTask]:
        """One model per bundle; it is listed as soon as its weights are there."""
        return {
            name: BundleInferTask(name, METHODS[name], root, self._trained(name))
            for name, root in self.roots.items()
        }

    def init_trainers(self) -> dict[str, BundleTrainTask]:
        """Trainings of the bundles that learn from label maps and have the weights that they start from."""
        return {
            name: BundleTrainTask(METHODS[name].description, root, self.output / name, self._trained(name))
            for name, root in self.roots.items()
            if METHODS[name].trainable and all(p.is_file() for p in weight_files(root, "train.json"))
        }

    def init_strategies(self) -> dict[str, Strategy]:
        """Urgencies of the models that have weights now, and chance."""
        strategies: dict[str, Strategy] = {"random": Random()}
        for name, task in self._infers.items():
            urgency = METHODS[name].urgency
            if urgency and task.is_valid():
                strategies[urgency.name] = HighestScoreFirst(urgency, partial(_report, task))
        return strategies

    def known(self) -> Mapping[str, Collection[str]]:
        """Names that may follow each route of the server."""
        models = [name for name, task in self._infers.items() if task.is_valid()]
        return {
            "infer": models,
            "batch/infer": models,
            "train": self._trainers,
            "activelearning": self._strategies,
            "scoring": (),
        }

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> Any:
        """Run a model on an image of the datastore or an uploaded one; see MONAILabelApp.

        Raises:
            ImageNotFoundException: for an image that the datastore does not have.
            RobustMedError: for one that cannot be used.
        """
        # The parameters of a request may name another model and image than its address.
        model = request["model"]
        if model not in self.known()["infer"]:
            raise ConfigError(f"model={model!r}: there is no such model; see /info/.")
        self._path(request["image"])
        for key in METHODS[model].inputs[1:]:
            if key not in request:
                raise ConfigError(f"{model}: name a second image of the studies as {key!r}.")
            request[key] = self._path(request[key])
        return super().infer(request, datastore)

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> Any:
        """Run a model on many images; what is wrong with one of them is its answer and ends nothing."""
        if not torch.cuda.is_available():
            # MONAI Label divides by the number of GPUs.
            request["multi_gpu"] = False
        return self._batch_infer(request, datastore or self.datastore(), self._infer_or_reason)

    def _infer_or_reason(self, request: dict[str, Any], datastore: Datastore) -> Any:
        try:
            return self.infer(request, datastore)
        except ImageError as error:
            logger.warning("%s: %s", request["image"], error)
            return {"error": str(error)}

    def _path(self, image: Any) -> str:
        if not isinstance(image, str):
            raise ConfigError(f"image={image!r}: give the name of an image of the studies.")
        path = image if os.path.exists(image) else str(self.datastore().get_image_uri(image))
        if not path:
            raise ImageNotFoundException(f"image {image!r}: the studies have no such image; see /datastore/.")
        return path

    def _trained(self, name: str) -> Path:
        return self.output / name / "model.pt"

    def _download_dcmqi_tools(self) -> None:
        logger.info("itkimage2segimage is not fetched: install dcmqi to save labels into a DICOMweb server")


def _folder(name: str) -> Path | None:
    try:
        root = Path(bundle_root(name))
    except ConfigError as error:
        logger.info("not served: %s", error)
        return None
    return root if (root / "configs" / "inference.json").is_file() else None


def _report(task: BundleInferTask, image: str) -> Report:
    return task.report({"image": image})
