from __future__ import annotations

import logging
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robustmed_monai.engines.file_iteration import file_iteration
from robustmed_monai.transforms.image_checks import GeometryWarning
from robustmed_monai.utils.errors import ConfigError, ImageError


class Engine(SimpleNamespace):
    """As much of an evaluator as the function touches."""

    def __init__(self) -> None:
        super().__init__(state=SimpleNamespace(output="the previous volume"))
        self.logger = logging.getLogger("test_file_iteration")

    def fire_event(self, event: Any) -> None: ...


def run(error: Exception | None = None) -> dict[str, Any]:
    def infer(engine: Any, path: str) -> dict[str, Any]:
        assert engine.state.output is None, "one volume at a time"
        if error is not None:
            raise error
        return {"path": path}

    return file_iteration(Engine(), {"image": "x.nii"}, infer)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImageError("x.nii: is bad"), "x.nii: is bad"),
        (MemoryError(), "x.nii: needs more memory than there is (MemoryError:); run it alone, crop it"),
        (torch.OutOfMemoryError("CUDA"), "x.nii: needs more memory than there is (OutOfMemoryError: CUDA)"),
        (RuntimeError("can't allocate memory: 9"), "x.nii: needs more memory than there is"),
        (IndexError("9\nmore"), "x.nii: an error that this package did not foresee (IndexError: 9); look"),
    ],
)
def test_no_image_ends_the_run(error: Exception, message: str) -> None:
    output = run(error)
    assert set(output) == {"path", "error"}
    assert output["error"].startswith(message)


def test_a_setting_does() -> None:
    with pytest.raises(ConfigError):
        run(ConfigError("perceptual='x' is unknown"))


def test_a_result_that_is_there_is_handed_on() -> None:
    def infer(engine: Any, path: str) -> dict[str, Any]:
        raise AssertionError("nothing to do")

    assert file_iteration(Engine(), {"image": "x", "done": True}, infer) == {"path": "x", "done": True}


def test_doubts_about_the_geometry_are_part_of_the_result() -> None:
    def infer(engine: Any, path: str) -> dict[str, Any]:
        warnings.warn("x.nii: which one?", GeometryWarning, stacklevel=1)
        warnings.warn("unrelated", FutureWarning, stacklevel=1)
        return {"path": path, "warnings": ["empty"]}

    with pytest.warns(FutureWarning, match="unrelated") as caught:
        output = file_iteration(Engine(), {"image": "x.nii"}, infer)
    assert output["warnings"] == ["empty", "x.nii: which one?"]
    assert len(caught) == 1
    assert run()["warnings"] == []
