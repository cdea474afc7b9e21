"""The stress report of the page: made of virtual subjects, and its picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tools.stress_gallery import BROWSERS, chromium, photograph, report


def test_the_report_is_made(tmp_path: Path) -> None:
    content = report(tmp_path, count=2, severities=(5,), size=32)
    assert content["findings"][0].endswith("lost.")
    assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_the_picture_is_taken(tmp_path: Path) -> None:
    if not chromium():
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    page = tmp_path / "a page.html"
    page.write_text("<!DOCTYPE html><title>x</title><body style='background: #f00'>")
    with Image.open(photograph(page, tmp_path / "shot.png")) as picture:
        assert picture.convert("RGB").getpixel((600, 700)) == (255, 0, 0)
