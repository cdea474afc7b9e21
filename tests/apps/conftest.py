"""Real MONAI Label servers with the app, in the environment of the extra `label`, asked over the loopback.

Their interpreter is named by ROBUSTMED_LABEL_PYTHON, or lies in `.venv-label`, which `make label-demo` makes.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from robustmed_monai.apps.monailabel.demo import wait_until_ready
from robustmed_monai.apps.monailabel.methods import METHODS
from robustmed_monai.apps.monailabel.server import make_app_folder, server_command

REPOSITORY = Path(__file__).resolve().parents[2]
ANGLE = np.deg2rad(11)
AFFINE = np.array(
    [
        [-1.5 * np.cos(ANGLE), 0, 4.0 * np.sin(ANGLE), 30.25],
        [0, 1.5, 0, -41.5],
        [1.5 * np.sin(ANGLE), 0, 4.0 * np.cos(ANGLE), 12.125],
        [0, 0, 0, 1],
    ]
)

# Between the parts of a form.
_MARK = "robustmed-test"


VOLUMES = ("healthy", "lesion")


@dataclass
class Server:
    """A running server and what it works on."""

    url: str
    process: subprocess.Popen[bytes]
    studies: Path
    output: Path
    log: Path

    def ask(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        files: Mapping[str, Path | tuple[str, bytes]] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and content of the answer to a request; a file is on disk, or a name with its content."""
        request = urllib.request.Request(self.url + path, method=method, headers=dict(headers or {}))
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        elif fields or files:
            request.data = _form(fields or {}, files or {})
            request.add_header("Content-Type", f"multipart/form-data; boundary={_MARK}")
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return int(answer.status), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def json(self, method: str, path: str, **content: Any) -> Any:
        """Content of an answer that has to be good."""
        status, found = self.ask(method, path, **content)
        assert status == 200, found
        return json.loads(found)

    def infer(
        self, model: str, image: str, params: Mapping[str, Any] | None = None, output: str = "image"
    ) -> bytes:
        """Answer of a model, which has to be good; a second image is the first one again."""
        given = {**dict.fromkeys(METHODS[model].inputs[1:], image), **(params or {})}
        query = urllib.parse.urlencode({"image": image, "output": output})
        status, found = self.ask("POST", f"/infer/{model}?{query}", {"params": json.dumps(given)})
        assert status == 200, found
        return found


def _form(fields: Mapping[str, str], files: Mapping[str, Path | tuple[str, bytes]]) -> bytes:
    data = io.BytesIO()
    for name, text in fields.items():
        data.write(f'--{_MARK}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode())
    for name, file in files.items():
        named, content = (file.name, file.read_bytes()) if isinstance(file, Path) else file
        head = f'Content-Disposition: form-data; name="{name}"; filename="{named}"'
        data.write(f"--{_MARK}\r\n{head}\r\n\r\n".encode() + content + b"\r\n")
    data.write(f"--{_MARK}--\r\n".encode())
    return data.getvalue()


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy volume, one with a bright spot, a picture, and a file that is cut off."""
    folder = tmp_path_factory.mktemp("studies")
    x, y, z = np.meshgrid(
        np.linspace(-1, 1, 40), np.linspace(-1, 1, 44), np.linspace(-0.6, 0.6, 6), indexing="ij"
    )
    head = 500 * (x**2 + y**2 + z**2 < 0.8) + 150 * (x**2 + y**2 + z**2 < 0.4)
    spot = (x - 0.3) ** 2 + (y - 0.2) ** 2 < 0.05
    for name, voxels in zip(VOLUMES, (head, np.where(spot, 1200, head)), strict=True):
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), AFFINE), folder / f"{name}.nii.gz")
    Image.fromarray((head[:, :, 3].T / 4).astype(np.uint8)).save(folder / "slice.png")
    whole = (folder / "healthy.nii.gz").read_bytes()
    (folder / "broken.nii.gz").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="session")
def label_python() -> str:
    given = os.environ.get("ROBUSTMED_LABEL_PYTHON")
    own = REPOSITORY / ".venv-label" / "bin" / "python"
    if not given and not own.is_file():
        pytest.skip("neither ROBUSTMED_LABEL_PYTHON nor .venv-label: MONAI Label needs its own environment")
    return given or str(own)


@pytest.fixture(scope="module")
def start_server(
    label_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """Function of the bundles, the studies and the settings of the app that starts a server."""
    with ExitStack() as running:

        def start(bundles: Path, studies: Path, **conf: str) -> Server:
            folder = tmp_path_factory.mktemp("server")
            return running.enter_context(_running(label_python, folder, bundles, studies, conf))

        yield start


@contextmanager
def _running(
    python: str, folder: Path, bundles: Path, studies: Path, conf: Mapping[str, str]
) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app, output = make_app_folder(folder / "app"), folder / "trained"
    command = [python, *server_command(app, studies, port, {"output": str(output), **conf})[1:]]
    nowhere = "http://127.0.0.1:9"
    (folder / "tmp").mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "ROBUSTMED_BUNDLES": str(bundles),
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        "TMPDIR": str(folder / "tmp"),
        # Whoever asks for the internet fails, as offline.
        **{name: nowhere for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")},
        "no_proxy": "127.0.0.1",
    }
    url = f"http://127.0.0.1:{port}"
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            assert wait_until_ready(url, process), log.read_text()[-3000:]
            yield Server(url, process, studies, output, log)
        finally:
            process.kill()
            process.wait()
