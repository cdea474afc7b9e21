"""The stress report: one file, whole, and blind to whatever the texts of a result hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from robustmed_monai.apps.stress import callable_model, make_suite, tensor_data
from robustmed_monai.apps.stress import stress as run_stress
from robustmed_monai.apps.stress.card import card_markdown, write_card
from robustmed_monai.apps.stress.findings import findings, verdict
from robustmed_monai.apps.stress.html import report_html, write_html
from robustmed_monai.apps.stress.reading import kinds
from robustmed_monai.utils.errors import DataError

_RAN = "document.title='ran'"
HOSTILE = f"<script>{_RAN}</script>\"'><img src=x onerror={_RAN}>](javascript:x)\x00\ud800"


class _Tags(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _parsed(page: str) -> _Tags:
    parser = _Tags()
    parser.feed(page)
    return parser


def _hostile(content: Any, keep: set[str], key: str = "") -> Any:
    """The content with the hostile text in place of every text, and as the name of every gate."""
    if isinstance(content, dict):
        return {k: _hostile(part, keep, k) for k, part in content.items()}
    if isinstance(content, list):
        return [_hostile(part, keep, key) for part in content]
    return content if not isinstance(content, str) or key in keep else f"{HOSTILE} {content}"


@pytest.fixture
def hostile(stress: dict[str, Any]) -> dict[str, Any]:
    """The result with tags and scripts in all its texts; conditions keep what ties them together."""
    made: dict[str, Any] = _hostile(stress, {"format", "main", "task", "clean_png", "stressed_png"})
    for condition, plain in zip(made["conditions"], stress["conditions"], strict=True):
        condition["family"] = "clean" if plain["family"] == "clean" else condition["family"]
        condition["gates"] = {HOSTILE: plain["gates"]["familiarity"]}
    return made


def test_everything_is_there(stress: dict[str, Any], folder: Path) -> None:
    page = _parsed(report_html(stress, folder))
    text = " ".join(page.words)
    for sentence in findings(stress):
        assert sentence in text
    assert text.index(verdict(stress)) < text.index("Findings")
    for condition in stress["conditions"]:
        assert f"{condition['figures']['accuracy']['mean']:.2f}" in text
    assert page.tags.count("polyline") == 2 * sum(len(kind.steps) > 1 for kind in kinds(stress))
    assert page.tags.count("img") == 24
    for word in ("bundles/net", "ab" * 32, "cd" * 32, "RISC", "not met", "2026-11-30", "2.14.1"):
        assert word in text


def test_nothing_is_loaded_and_every_picture_has_words(stress: dict[str, Any], folder: Path) -> None:
    page = report_html(stress, folder)
    found = _parsed(page)
    assert {"script", "link", "iframe", "object", "embed", "base", "form"}.isdisjoint(found.tags)
    addresses = [value for name, value in found.attributes if name in ("src", "href", "srcset", "xlink:href")]
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    assert not re.search(r"url\(|@import|http-equiv=.refresh", page)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    names = [value for name, value in found.attributes if name == "alt"]
    assert len(names) == 24
    assert all(names)
    identities = [value for name, value in found.attributes if name == "id"]
    assert len(identities) == len(set(identities))
    labelled = " ".join(value for name, value in found.attributes if name == "aria-labelledby").split()
    assert set(labelled) <= set(identities)
    assert found.tags.count("title") > found.tags.count("svg") - 5


def test_hostile_texts_are_texts(hostile: dict[str, Any], stress: dict[str, Any], folder: Path) -> None:
    plain, page = (report_html(content, folder) for content in (stress, hostile))
    assert sorted(_parsed(page).tags) == sorted(_parsed(plain).tags)
    assert {name for name, _ in _parsed(page).attributes} == {name for name, _ in _parsed(plain).attributes}
    page.encode("utf-8")
    assert "\x00" not in page


def test_hostile_texts_are_texts_on_the_card(hostile: dict[str, Any]) -> None:
    card = card_markdown(hostile)
    outside = card.split("```")[0]
    assert "<script" not in outside.replace("\\<", "")
    assert not re.search(r"(?<!\\)[<>`]", outside)
    assert "](" not in outside.replace("\\]", "")
    card.encode("utf-8")


def test_the_card_is_short_and_has_a_row_for_each_kind(stress: dict[str, Any]) -> None:
    card = card_markdown(stress)
    assert len(card.split()) < 600
    assert card.count("\n| ") == len(kinds(stress)) + 2
    assert "**0.35**" in card
    assert "robustmed stress --bundle bundles/net" in card


def test_files_are_written_beside_the_result(stress: dict[str, Any], folder: Path) -> None:
    assert write_html(stress, folder).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert write_card(stress, folder).name == "card.md"
    assert sorted(path.name for path in folder.iterdir()) == ["card.md", "pictures", "report.html"]


def test_little_is_enough(stress: dict[str, Any], folder: Path) -> None:
    """No baseline, gates, cases, requirements or intervals; nothing but clean; figures that are undefined."""
    stress |= {"baseline": None, "cases": None, "requirements": [], "suggestions": [], "provenance": {}}
    stress["summary"] = {"clean": 0.9}
    stress["data"] |= {"subjects": None, "split": None}
    for condition in stress["conditions"]:
        condition |= {"baseline_figures": None, "gates": {}}
        del condition["figures"]["accuracy"]["ci95"]
    stress["conditions"][3]["figures"]["ece"]["mean"] = None
    assert "not decided by 624 images" in report_html(stress, folder)
    del stress["conditions"][1:]
    assert "was put under no stress" in report_html(stress, folder)
    assert card_markdown(stress)


def test_the_result_survives_json(stress: dict[str, Any], folder: Path) -> None:
    assert report_html(json.loads(json.dumps(stress)), folder) == report_html(stress, folder)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "pictures/none.png", "pictures"])
def test_pictures_come_from_the_folder(stress: dict[str, Any], folder: Path, name: str) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (folder / "secret.png").write_bytes((folder / stress["cases"]["worst"][0]["clean_png"]).read_bytes())
    stress["cases"]["worst"][0]["clean_png"] = name
    with pytest.raises(DataError, match=re.escape(name)):
        report_html(stress, inner)


def test_what_is_no_picture_is_refused(stress: dict[str, Any], folder: Path) -> None:
    (folder / stress["cases"]["worst"][0]["clean_png"]).write_text("<svg onload='x'/>")
    with pytest.raises(DataError, match="no PNG"):
        report_html(stress, folder)


@pytest.mark.parametrize("change", [{"format": "robustmed stress 0"}, {"conditions": []}, {"main": "dice"}])
def test_other_files_are_refused(stress: dict[str, Any], folder: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="json: "):
        report_html(stress | change, folder)


@pytest.mark.slow
@pytest.mark.parametrize("texts", ["plain", "hostile"])
def test_in_a_browser(
    stress: dict[str, Any],
    hostile: dict[str, Any],
    folder: Path,
    look: Callable[..., Any],
    texts: str,
) -> None:
    path = write_html(hostile if texts == "hostile" else stress, folder)
    seen = look(path)
    assert seen.console == []
    assert seen.asked == []
    assert seen.refused == []
    assert seen.overflow == [0, 0]
    assert len(seen.pictures) == 48
    assert all(seen.pictures)
    assert not seen.title.endswith("ran")


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_run_ends_in_a_report(tmp_path: Path, task: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 1, 16, 16)
    labels = torch.arange(8) % 2
    if task == "classification":
        model = callable_model(lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 15, 15]], 1), "corners")
    else:
        labels = (images > 0.4).long()
        model = callable_model(lambda x: (x > 0.5).long(), "threshold")
    data = tensor_data(images, labels, "noise", num_classes=2)
    content = run_stress(model, data, make_suite(["geometry", "orientation"], data, (1, 5)), tmp_path)
    written = json.loads((tmp_path / "stress.json").read_text(encoding="utf-8"))
    assert written["findings"] == findings(content)
    assert report_html(written, tmp_path) == (tmp_path / "report.html").read_text(encoding="utf-8")
    assert card_markdown(written) == (tmp_path / "card.md").read_text(encoding="utf-8")
    cases = sum(len(shown) for shown in content["cases"].values())
    pictures = cases * (2 if task == "classification" else 4)
    assert cases >= 6
    assert _parsed(report_html(written, tmp_path)).tags.count("img") == pictures
