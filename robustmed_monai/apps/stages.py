"""Runs the training of several configs of a bundle one after the other, as one command."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from robustmed_monai.utils.files import read_json, write_json

DONE = "done.json"


def run_stage(
    config: str | os.PathLike[str], output_dir: str | os.PathLike[str], resume: bool = False, **settings: Any
) -> str:
    """Train by one config and return the weights file that it wrote.

    Args:
        config: config file of a training whose best weights are ``<output_dir>/model.pt``.
        output_dir: folder of this stage.
        resume: go on where a run of this stage was stopped; one that is done is not repeated.
        settings: overrides of the config; those that are None are left to it.

    Returns:
        Path of the weights.
    """
    folder = Path(output_dir)
    given = {key: value for key, value in settings.items() if value is not None}
    done = folder / DONE
    if resume and done.is_file():
        logging.getLogger(__name__).info(f"{folder}: done before, {read_json(done)}")
        return str(folder / "model.pt")
    unfinished = resume and (folder / "checkpoint.pt").is_file()
    workflow = ConfigWorkflow(
        str(config),
        logging_file=False,
        workflow_type="train",
        output_dir=str(folder),
        resume=unfinished,
        **given,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    write_json(done, {"config": Path(config).name})
    return str(folder / "model.pt")
