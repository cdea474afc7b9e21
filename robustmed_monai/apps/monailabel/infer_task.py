"""One inference task for all bundles: an image in, a file on its grid and the bundle's report out."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.tasks.infer_v2 import InferTask

from robustmed_monai.apps.monailabel.methods import Method, calibrated, run_inference, weight_files
from robustmed_monai.utils.errors import ConfigError, ImageError
from robustmed_monai.utils.files import read_json


class BundleInferTask(InferTask):
    """Runs a bundle's inference config on the image of a request.

    Args:
        name: name of the model.
        method: what viewers have to know of it.
        root: folder of the bundle.
        trained: weights that take the place of the bundle's once a training through the server wrote them.
    """

    def __init__(self, name: str, method: Method, root: Path, trained: Path) -> None:
        self.name = name
        self.method = method
        self.root = root
        self.trained = trained
        self.shipped = weight_files(root, overlays=method.overlays)
        # Viewers show these options and send them back.
        options = calibrated(root, Path(self.get_path())) if method.cut else {}
        super().__init__(method.kind, dict(method.labels), 3, method.description, options)

    def get_path(self, validate: bool = True) -> str:
        """The weights that answer at present."""
        return str(self.trained if self.trained.is_file() else self.shipped[0])

    def is_valid(self) -> bool:
        """Whether all weights are there; only then is the model listed."""
        return all(path.is_file() for path in (Path(self.get_path()), *self.shipped[1:]))

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Run the bundle.

        Args:
            request: ``image`` and, where the bundle takes a second image, its path by name; ``result``, the
                name of another result file of the bundle; ``threshold`` where the model takes one;
                ``device``; ``result_extension``, ".nrrd" for viewers that want it.

        Returns:
            Path of a file that the caller removes, and the bundle's report.

        Raises:
            RobustMedError: for an image, file or setting that cannot be used.
        """
        chosen = str(request.get("result", self.method.result))
        with tempfile.TemporaryDirectory(prefix=f"{self.name}-") as folder:
            results, report = self._run(request, Path(folder))
            if self.method.cut and chosen == "anomaly_mask" and "threshold" not in report:
                raise ConfigError(
                    f"{self.name}: its weights are not calibrated, so nothing says from where on the map is "
                    "an anomaly; give 'threshold' in the unit of the map, or ask for 'result': 'anomaly_map'."
                )
            missing = chosen == self.method.result and not any(results.glob(f"{chosen}.*"))
            if missing and report.get("assessed") == 0:
                said = "; ".join(report["warnings"])
                raise ImageError(f"{self.name}: assesses nothing here, so there is no {chosen}: {said}")
            answer = _sent(results, chosen, request.get("result_extension"))
        names = {"label_names": dict(self.method.labels)} if chosen == self.method.result else {}
        return answer, {"model": self.name, "result": chosen, **names, **report}

    def report(self, request: dict[str, Any]) -> dict[str, Any]:
        """The bundle's report alone, see ``__call__``."""
        with tempfile.TemporaryDirectory(prefix=f"{self.name}-") as folder:
            return self._run(request, Path(folder))[1]

    def _run(self, request: dict[str, Any], folder: Path) -> tuple[Path, dict[str, Any]]:
        """Folder of the results, within ``folder``, and the report."""
        first, *others = self.method.inputs
        images = {first: request["image"], **{key: request[key] for key in others}}
        settings: dict[str, Any] = {key: os.path.abspath(path) for key, path in images.items()}
        settings["weights"] = self.get_path()
        if torch.cuda.is_available() and "device" in request:
            settings["device"] = _device(str(request["device"]))
        if self.method.cut and "threshold" in request:
            # The rate of false alarms of a chosen threshold is unknown.
            settings |= {"threshold": float(request["threshold"]), "fpr": None}
        results = run_inference(self.root, folder, settings, self.method.overlays)
        return results, read_json(results / self.method.report)


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name!r}: there is no such device; use 'cuda' or 'cpu'.") from error


def _sent(results: Path, name: str, extension: str | None) -> str:
    """Copy of a result file out of the bundle's temporary folder, of the type that is asked for."""
    there = {path.name.split(".")[0]: path for path in sorted(results.iterdir()) if path.suffix != ".json"}
    if name not in there:
        raise ConfigError(f"result={name!r}: the bundle wrote no such file; choose one of {sorted(there)}.")
    source = there[name]
    suffix = source.name.removeprefix(name)
    convert = extension == ".nrrd" and suffix == ".nii.gz"
    with tempfile.NamedTemporaryFile(
        prefix=f"{name}-", suffix=".nrrd" if convert else suffix, delete=False
    ) as target:
        pass
    if convert:
        import SimpleITK

        # Uncompressed: OHIF reads the voxels without asking for the encoding.
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(source)), target.name, False)
    else:
        shutil.copyfile(source, target.name)
    return target.name
