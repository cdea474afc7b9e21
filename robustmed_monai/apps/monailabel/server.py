"""Command line of a MONAI Label server with this app, on the loopback address."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path


def make_app_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder for ``--app``.

    MONAI Label writes logs and more into the app's folder, so that the one in this package is copied, which
    is one file.

    Args:
        folder: folder to make; it may exist.

    Returns:
        Its absolute path.
    """
    app = Path(folder).absolute()
    app.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("main.py"), app / "main.py")
    return app


def server_command(
    app: str | os.PathLike[str],
    studies: str | os.PathLike[str],
    port: int = 8000,
    conf: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the command that starts the server, with the interpreter that runs this.

    Args:
        app: folder that ``make_app_folder`` made.
        studies: folder of the images; results are written into it.
        port: port on the loopback address.
        conf: settings of the app, see ``docs/monai_label.md``.
    """
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app)]
    command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    for key, value in (conf or {}).items():
        command += ["--conf", key, value]
    return command
