"""``make label-demo``: the server with brains of the embedded data, on the loopback address, offline."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from robustmed_monai.apps.monailabel.server import make_app_folder, server_command
from robustmed_monai.data.embedded import embedded_dataset
from robustmed_monai.utils.files import read_json

_TEXT = """
MONAI Label answers at {url}, for this machine only. Stop it with Ctrl-C.

In 3D Slicer: module MONAI Label, server {url}, Next Sample, Run.
What is served, an anomaly mask, the study to look at first:

  curl {url}/info/
  curl -X POST '{url}/infer/ra?image={image}&output=image' -o mask.nii.gz
  curl -X POST {url}/activelearning/ra_anomaly_score

The studies are in {studies}; labels go to its subfolder labels.
"""


def make_studies(folder: Path, count: int = 4) -> list[str]:
    """Copy volumes of the embedded test subjects into a folder of studies, healthy and abnormal ones in turn.

    Args:
        folder: folder to make; images that are there stay as they are.
        count: volumes of each.

    Returns:
        Names of the images, as MONAI Label calls them; the last one is abnormal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = embedded_dataset()
    items = read_json(data / "volumes.json")["test"]
    healthy = [item for item in items if item["healthy"]][:count]
    abnormal = [item for item in items if not item["healthy"]][-count:]
    names = []
    for item in (item for pair in zip(healthy, abnormal, strict=True) for item in pair):
        source = data / item["image"]
        shutil.copyfile(source, folder / source.name)
        names.append(source.name.removesuffix(".nii.gz"))
    return names


def wait_until_ready(url: str, server: subprocess.Popen[bytes], seconds: float = 180) -> bool:
    """Wait until the server answers; False when it ended or the time is over."""
    deadline = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/info/", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            # It answers, if only that it wants the token.
            error.close()
            return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    return False


def main() -> int:
    """Make the studies, start the server, say where it is, and wait for its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/monailabel"), help="folder to write into")
    parser.add_argument("--studies", type=Path, help="folder of your own images instead of the embedded ones")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    studies: Path = (arguments.studies or folder / "studies").absolute()
    image = "NAME" if arguments.studies else make_studies(studies)[-1]
    command = server_command(
        make_app_folder(folder / "app"), studies, arguments.port, {"output": str(folder / "trained")}
    )
    server = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{arguments.port}"
        if wait_until_ready(url, server):
            sys.stdout.write(_TEXT.format(url=url, image=image, studies=studies))
            sys.stdout.flush()
        return server.wait()
    except KeyboardInterrupt:
        return server.wait()
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
            server.wait()


if __name__ == "__main__":
    sys.exit(main())
