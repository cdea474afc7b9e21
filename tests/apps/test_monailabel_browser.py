"""A real browser opens a foreign page that asks the MONAI Label server of this machine: it gets nothing."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tools.stress_gallery import BROWSERS, chromium

pytestmark = pytest.mark.slow

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
# The names lead to this machine, as the names of a page that attacks can.
NAMES = "MAP *.example 127.0.0.1"
PAGE = """<!DOCTYPE html><title>waiting</title><ul id=found></ul><script>
const server = %r, found = {};
async function attempt(name, path, options) {
  try { found[name] = await (await fetch(server + path, options)).text(); }
  catch (error) { found[name] = "blocked"; }
}
function picture(path) {
  return new Promise(done => {
    const image = new Image();
    image.onload = () => done("shown"); image.onerror = () => done("blocked");
    image.src = server + path;
  });
}
(async () => {
  const file = new FormData(); file.append("file", new Blob(["x"]), "x.nii.gz");
  await attempt("read", "/info/", {});
  await attempt("read as the user", "/info/", {credentials: "include"});
  await attempt("blind read", "/datastore/", {mode: "no-cors"});
  await attempt("blind run", "/activelearning/random", {mode: "no-cors", method: "POST"});
  await attempt("blind upload", "/infer/ra", {mode: "no-cors", method: "POST", body: file});
  await attempt("upload", "/datastore/image?image=x", {method: "PUT", body: file});
  await attempt("remove", "/datastore/image?id=slice", {method: "DELETE"});
  found["picture"] = await picture("/datastore/image?image=slice");
  document.body.textContent = JSON.stringify(found);
})();
</script>"""


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Function of an address that returns what a browser made of it."""
    browser = chromium()
    if not browser:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    profile = tmp_path_factory.mktemp("profile")

    def look(address: str) -> str:
        command = [*browser, f"--user-data-dir={profile}"]
        command += [f"--host-resolver-rules={NAMES}", "--virtual-time-budget=60000", "--dump-dom", address]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout

    return look


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], studies: Path) -> Any:
    return start_server(BUNDLES, studies, models="ra")


@pytest.fixture
def foreign(server: Any) -> Iterator[int]:
    """Port of a server with the page that attacks."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write((PAGE % server.url).encode())

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        yield pages.server_address[1]
        pages.shutdown()


@pytest.mark.parametrize("host", ["evil.example", "localhost", "127.0.0.1"])
def test_a_foreign_page_gets_nothing(
    server: Any, browse: Callable[[str], str], foreign: int, host: str
) -> None:
    kept, size = server.json("GET", "/datastore/?output=all"), server.log.stat().st_size
    page = browse(f"http://{host}:{foreign}/")
    found = json.loads(page[page.index("{", page.index("<body>")) : page.rindex("}") + 1])
    assert found == dict.fromkeys(found, "blocked")
    assert len(found) == 8
    assert server.json("GET", "/datastore/?output=all") == kept
    # The browser asked, and it was the server that refused.
    log = server.log.read_bytes()[size:].decode()
    for asked in (
        "GET '/info/'",
        "GET '/datastore/'",
        "POST '/activelearning/random'",
        "POST '/infer/ra'",
        "OPTIONS '/datastore/image'",
        "GET '/datastore/image'",
    ):
        assert f"refused: {asked}: " in log


def test_a_page_whose_name_leads_here_is_refused(server: Any, browse: Callable[[str], str]) -> None:
    port = server.url.rpartition(":")[2]
    assert "not a name of this server" in browse(f"http://rebind.example:{port}/info/")


def test_the_user_and_the_own_pages_are_served(server: Any, browse: Callable[[str], str]) -> None:
    assert "robustmed_monai" in browse(f"{server.url}/info/")
    assert "OHIF" in browse(f"{server.url}/ohif/")
