"""A stress result that was made up, with pictures, and a browser to open its report in."""

from __future__ import annotations

import copy
import html
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from tools.stress_gallery import BROWSERS, chromium

# Loss per severity and half the width of the intervals, by what a kind of stress does to the made-up model.
SLOPES = {
    ("imagenet_c", "gaussian_noise"): 0.11,
    ("imagenet_c", "fog"): 0.002,
    ("imagenet_c", "jpeg_compression"): 0.012,
    ("mr", "bias_field"): 0.05,
    ("mr", "ghosting"): 0.0,
}
SINGLE = {("orientation", "flip_left_right"): 0.3, ("orientation", "turn_180"): -0.001}
HALF = 0.012

# The report in a wide and a narrow frame, and what became of it there.
FRAMES = """<!DOCTYPE html><title>frames</title><script>
const found = {title: "", pictures: [], overflow: [], refused: [], asked: []};
async function show(width) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.style.height = "900px"; frame.style.border = 0;
  frame.src = "/report.html";
  const loaded = new Promise(done => frame.onload = done);
  document.body.append(frame);
  await loaded;
  const page = frame.contentDocument;
  page.addEventListener("securitypolicyviolation", event => found.refused.push(event.violatedDirective));
  await new Promise(done => setTimeout(done, 500));
  found.title += page.title;
  found.pictures.push(...[...page.images].map(image => image.complete && image.naturalWidth > 0));
  found.overflow.push(page.documentElement.scrollWidth - page.documentElement.clientWidth);
  const entries = frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name);
  found.asked.push(...entries.filter(name => !name.startsWith("data:")));
}
addEventListener("load", async () => {
  for (const width of [1200, 390]) await show(width);
  const text = document.createElement("pre");
  text.textContent = JSON.stringify(found);
  document.body.replaceChildren(text);
});
</script><body></body>"""


class Seen(NamedTuple):
    """What a browser made of a page."""

    title: str
    pictures: list[bool]  # whether each was shown
    overflow: list[int]  # pixels that the page is wider than its frame, wide and narrow
    refused: list[str]  # by the page's own policy
    asked: list[str]  # beside the page itself
    console: list[str]


def _figures(accuracy: float, half: float) -> dict[str, Any]:
    return {
        "accuracy": {"mean": accuracy, "ci95": [accuracy - half, min(accuracy + half, 1.0)]},
        "auc": {
            "mean": (1 + accuracy) / 2,
            "ci95": [(1 + accuracy) / 2 - half, min((1 + accuracy) / 2 + half, 1)],
        },
        "ece": {"mean": 0.95 - accuracy, "ci95": [0.95 - accuracy - half / 2, 0.95 - accuracy + half / 2]},
    }


def changed(mean: float, half: float) -> dict[str, Any]:
    """The paired difference of every figure where the accuracy differs by `mean`."""
    ends = {"accuracy": mean, "auc": mean / 2, "ece": -mean}
    return {name: {"mean": value, "ci95": [value - half, value + half]} for name, value in ends.items()}


def _condition(family: str, name: str, severity: int | None, loss: float, half: float) -> dict[str, Any]:
    accuracy = 0.9 - loss
    return {
        "id": f"{family}/{name}/{severity}" if family != "clean" else "clean",
        "family": family,
        "name": name,
        "severity": severity,
        "description": f"{name}, severity {severity}",
        "figures": _figures(accuracy, half),
        "changes": changed(-loss, half),
        "baseline_figures": _figures(0.9 - 0.6 * loss - 0.03, half),
        "advantages": changed(0.03 - 0.4 * loss, half),
        "gates": {
            "familiarity": {
                "warned": min(1.0, 0.02 + 3 * max(loss, 0)),
                "warned_when_wrong": min(1.0, 0.1 + 2 * max(loss, 0)),
            }
        },
        "seconds": 1.5,
    }


def _case(index: int, kind: str, condition: str) -> dict[str, Any]:
    return {
        "image": f"test-{index}",
        "subject": f"subject-{index}",
        "condition": condition,
        "before": 0.97,
        "after": 0.02 if kind == "worst" else 0.96,
        "label": "normal",
        "prediction": "pneumonia" if kind == "worst" else "normal",
        "clean_png": f"pictures/{kind}_{index}_clean.png",
        "stressed_png": f"pictures/{kind}_{index}_stressed.png",
        "description": "gaussian noise, severity 5 of 5 (ImageNet-C) (scale 0.38)",
    }


def _result() -> dict[str, Any]:
    conditions = [_condition("clean", "clean", 0, 0.0, HALF)]
    for (family, name), slope in SLOPES.items():
        half = 0.08 if name == "jpeg_compression" else HALF
        conditions += [_condition(family, name, k, slope * k, half) for k in range(1, 6)]
    conditions += [_condition(family, name, None, loss, HALF) for (family, name), loss in SINGLE.items()]
    metrics = {
        "accuracy": {"higher_is_better": True, "range": [0, 1], "label": "Accuracy"},
        "auc": {"higher_is_better": True, "range": [0, 1], "label": "AUC"},
        "ece": {"higher_is_better": False, "range": [0, 1], "label": "ECE"},
    }
    worst = {"family": "imagenet_c", "name": "gaussian_noise", "mean": 0.57}
    return {
        "format": "robustmed stress 2",
        "model": {"name": "small net", "source": "bundles/net", "weights_sha256": "ab" * 32},
        "baseline": {"name": "plain classifier", "source": "plain.pt"},
        "task": "classification",
        "data": {
            "name": "made-up X-rays",
            "sha256": "cd" * 32,
            "images": 624,
            "subjects": 600,
            "split": "test",
        },
        "provenance": {
            "command": "robustmed stress --bundle bundles/net",
            "commit": "0" * 40,
            "date": "2026-11-30",
            "versions": {"torch": "2.14.1"},
            "hardware": {"cpu": "a", "cores": 2},
            "seed": 0,
        },
        "main": "accuracy",
        "metrics": metrics,
        "conditions": conditions,
        "summary": {
            "clean": 0.9,
            "mean_over_conditions": 0.79,
            "mean_corruption_error": 1.21,
            "relative_corruption_error": 1.4,
            "first_drop": {"imagenet_c/gaussian_noise": 1, "imagenet_c/fog": None},
            "worst_group": worst,
            "areas": {},
        },
        "cases": {
            kind: [_case(i, kind, f"imagenet_c/gaussian_noise/{1 + i % 5}") for i in range(6)]
            for kind in ("worst", "least")
        },
        "requirements": [
            {"text": "accuracy=0.85", "value": 0.9, "passed": True},
            {"text": "accuracy=.8@gaussian_noise:3", "value": 0.57, "passed": False},
        ],
        "remedies": {"names": ["RISC", "median filter"], "conditions": 3},
        "suggestions": [
            {
                "what": "RISC",
                "condition": "orientation/flip_left_right/None",
                "gives_back": {"mean": 0.13, "ci95": [0.1, 0.16]},
                "without": 0.6,
                "with_it": 0.73,
                "as_given": {"mean": -0.01, "ci95": [-0.02, 0.0]},
            }
        ],
        "findings": [],
    }


@pytest.fixture
def stress() -> dict[str, Any]:
    """A stress result of a classifier, new for each test."""
    return copy.deepcopy(_result())


@pytest.fixture
def folder(stress: dict[str, Any], tmp_path: Path) -> Path:
    """Folder with the pictures that the result names."""
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    x = np.hypot(*np.meshgrid(np.linspace(-1, 1, 28), np.linspace(-1, 1, 28)))
    for kind in ("worst", "least"):
        for case in stress["cases"][kind]:
            clean = 200 * (x < 0.7) + 30 * rng.random(x.shape)
            noisy = clean + (60 if kind == "worst" else 4) * rng.standard_normal(x.shape)
            for key, image in (("clean_png", clean), ("stressed_png", noisy)):
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / case[key])
    return tmp_path


@pytest.fixture
def look(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Seen]:
    """Function of a page that opens it in headless Chromium, wide and narrow, and returns what it was."""
    browser = chromium()
    if not browser:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")

    def open_page(path: Path) -> Seen:
        pages = {"/": FRAMES.encode(), "/report.html": path.read_bytes()}
        with _serving(pages) as (address, asked):
            profile = tmp_path_factory.mktemp("profile")
            command = [*browser, f"--user-data-dir={profile}"]
            command += ["--enable-logging=stderr", "--virtual-time-budget=30000", "--dump-dom", address]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        found = json.loads(html.unescape(re.findall(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)[0]))
        console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        others = [name for name in asked if name not in ("/", "/report.html", "/favicon.ico")]
        return Seen(console=console, asked=others + found.pop("asked"), **found)

    return open_page


@contextmanager
def _serving(pages: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """The address of a server of these pages on this machine, and what it is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(pages.get(self.path, b""))

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", asked
        server.shutdown()
