"""The MONAI Label app: bundles as models, as active learning strategies and, from labels, as trainings."""

from __future__ import annotations

import logging
import re
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import monailabel.app
import torch
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.random import Random
from monailabel.utils.async_tasks.utils import tasks
from starlette.middleware import Middleware

from robustmed_monai.apps.monailabel.access import make_access
from robustmed_monai.apps.monailabel.answers import answer_in_sentences
from robustmed_monai.apps.monailabel.guard import Guard, Limits
from robustmed_monai.apps.monailabel.infer_task import BundleInferTask
from robustmed_monai.apps.monailabel.methods import METHODS, Report, weight_files
from robustmed_monai.apps.monailabel.routes import table
from robustmed_monai.apps.monailabel.store import ConfinedDatastore, ConfinedSessions
from robustmed_monai.apps.monailabel.train_task import BundleTrainTask
from robustmed_monai.apps.monailabel.urgency import HighestScoreFirst
from robustmed_monai.data.image_folder import SUFFIXES
from robustmed_monai.utils.bundle import bundle_root, open_output_dir
from robustmed_monai.utils.errors import ConfigError, ImageError

logger = logging.getLogger(__name__)

_OPENED = """
Whoever has this token can use the server; requests carry it as "Authorization: Bearer TOKEN".
It goes over the network as plain text unless a proxy or --ssl_certfile encrypts it.

  {token}

"""


class RobustMedApp(MONAILabelApp):
    """Serves the bundles that are there and have weights.

    Args:
        app_dir: folder of ``main.py``.
        studies: folder of the images, or the address of a DICOMweb server.
        conf: ``models``, names with commas between them, default all; ``output``, folder for trained weights,
            default ``out/monailabel`` below the working directory; ``hosts``, names under which other
            machines reach the server, default none; ``max_upload_mb``, default 2048.

    Raises:
        ConfigError: for an unknown model in ``models`` and for settings out of range.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        names = [name.strip() for name in conf.get("models", ",".join(METHODS)).split(",")]
        unknown = [name for name in names if name not in METHODS]
        if unknown:
            raise ConfigError(f"--conf models: there is no {unknown[0]!r}; choose of {list(METHODS)}.")
        self.roots = {name: root for name in names if (root := _folder(METHODS[name].bundle or name))}
        self.output = Path(open_output_dir(conf.get("output", "out/monailabel")))
        self.access = make_access(conf.get("hosts", ""))
        self.limits = _limits(conf.get("max_upload_mb", "2048"))
        super().__init__(
            app_dir,
            studies,
            conf,
            name="robustmed_monai",
            description="Anomalies, corruptions, rotations and contrasts: methods that notice unusual images",
        )

    def on_init_complete(self) -> None:
        """Put the guard before the server's handlers, once it starts to serve."""
        server = monailabel.app.app
        answer_in_sentences(server)
        routes = table(self, self._is_dicomweb(), settings.MONAI_LABEL_AUTH_ENABLE)
        # In place of MONAI Label's own, which lets the pages of any server in.
        server.user_middleware = [Middleware(Guard, access=self.access, routes=routes, limits=self.limits)]
        # The app is made while the server starts; it has built its layers by then and builds them again.
        server.middleware_stack = None
        if self.access.hosts:
            sys.stdout.write(_OPENED.format(token=self.access.token))
            sys.stdout.flush()
        super().on_init_complete()

    def init_datastore(self) -> Datastore:
        """The studies: a folder that nothing leads out of, or what MONAI Label connects to."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return ConfinedDatastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

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

    def has_image(self, name: str) -> bool:
        """Whether the studies have an image; one of a DICOMweb server is only looked up when it is used."""
        if self._is_dicomweb():
            return re.fullmatch(r"[0-9.]{1,64}", name) is not None
        return bool(self.datastore().get_image_uri(name))

    def has_label(self, name: str, tag: str) -> bool:
        """Whether an image has a label of a kind."""
        store = self.datastore()
        return store.has_label(name, tag) if isinstance(store, ConfinedDatastore) else True

    def has_session(self, name: str) -> bool:
        """Whether an upload of an earlier request is still there."""
        return self.sessions() is not None and self.sessions().get_session(name) is not None

    def pending(self, kind: str) -> int:
        """How many tasks of a kind, such as "train", run or wait."""
        return sum(task["status"] in ("SUBMITTED", "RUNNING") for task in list(tasks(kind)))

    def image_types(self) -> Sequence[str]:
        """Suffixes of images that can be among the studies."""
        listed = [pattern.removeprefix("*") for pattern in settings.MONAI_LABEL_DATASTORE_FILE_EXT]
        return [suffix for suffix in listed if suffix in SUFFIXES]

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model on an image of the datastore or an uploaded one.

        Args:
            request: ``model``; ``image``, the name of a study or the path of an upload; what else the model
                takes; with ``save_label`` the result is kept as a label of the kind ``label_tag``.
            datastore: the studies; default those of the app.

        Returns:
            ``file`` of the result, ``label``, its name where it was kept and else the file, ``tag`` and the
            report as ``params``.

        Raises:
            ImageNotFoundException: for an image that the datastore does not have.
            RobustMedError: for one that cannot be used.
        """
        model, image = request["model"], request["image"]
        store, task = datastore or self.datastore(), self._infers[model]
        upload = self._upload(image)
        try:
            paths = {"image": upload or self._study(store, image)}
            for key in METHODS[model].inputs[1:]:
                if key not in request:
                    raise ConfigError(f"{model}: name a second image of the studies as {key!r}.")
                paths[key] = self._study(store, request[key])
            file, report = task({**request, **{key: str(path) for key, path in paths.items()}})
        except Exception:
            # MONAI Label removes what it received after an answer only.
            if upload and "session" not in request:
                upload.unlink(missing_ok=True)
            raise
        tag = request.get("label_tag", DefaultLabelTag.ORIGINAL)
        kept = file
        if request.get("save_label") and not upload:
            kept = store.save_label(image, file, tag, {"model": model, "params": report})
        return {"label": kept, "tag": tag, "file": file, "params": report}

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

    def _study(self, store: Datastore, image: Any) -> Path:
        path = store.get_image_uri(image) if isinstance(image, str) else ""
        if not path:
            raise ImageNotFoundException(f"image {image!r}: the studies have no such image; see /datastore/.")
        return Path(path)

    def _upload(self, image: Any) -> Path | None:
        """The path of what a request brought along; None for the name of a study."""
        if not isinstance(image, str) or not Path(image).is_absolute():
            return None
        path = Path(image).resolve()
        kept = Path(self.sessions().store_path) if self.sessions() else None
        places = [Path(tempfile.gettempdir()), *([kept] if kept else [])]
        if not any(path.is_relative_to(place.resolve()) for place in places) or not path.exists():
            raise ImageNotFoundException(f"image {image!r}: the studies have no such image; see /datastore/.")
        return path

    def _load_sessions(self, load: bool = False) -> ConfinedSessions | None:
        if not load:
            return None
        return ConfinedSessions(
            settings.MONAI_LABEL_SESSION_PATH,
            settings.MONAI_LABEL_SESSION_EXPIRY,
            self.limits.sessions,
            self.limits.upload,
            self.limits.files,
        )

    def _is_dicomweb(self) -> bool:
        return not isinstance(self.datastore(), ConfinedDatastore)

    def _trained(self, name: str) -> Path:
        return self.output / name / "model.pt"

    def _download_dcmqi_tools(self) -> None:
        logger.info("itkimage2segimage is not fetched: install dcmqi to save labels into a DICOMweb server")


def _limits(megabytes: str) -> Limits:
    if not megabytes.isdecimal() or not 1 <= int(megabytes) <= 1 << 20:
        raise ConfigError(f"--conf max_upload_mb {megabytes}: give a whole number from 1 to {1 << 20}.")
    return Limits(upload=int(megabytes) << 20)


def _folder(name: str) -> Path | None:
    try:
        root = Path(bundle_root(name))
    except ConfigError as error:
        logger.info("not served: %s", error)
        return None
    return root if (root / "configs" / "inference.json").is_file() else None


def _report(task: BundleInferTask, image: str) -> Report:
    return task.report({"image": image})
