"""The stress report as one HTML file: no script, no network, pictures inside, every text only ever text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from robustmed_monai.apps.stress.charts import curve, strip, value_range, warnings_chart
from robustmed_monai.apps.stress.findings import grouped_findings, verdict
from robustmed_monai.apps.stress.markup import Content, picture_data, plain, tag, to_html
from robustmed_monai.apps.stress.reading import (
    Kind,
    Stress,
    check_format,
    clean_condition,
    condition_title,
    ends,
    family_title,
    in_points,
    in_words,
    kinds,
    main_figure,
    metric_label,
    number,
    with_interval,
    worst_step,
)
from robustmed_monai.apps.stress.tables import everything, overview, plain_table, scrolling
from robustmed_monai.utils.files import atomic_path

# A browser that obeys this loads nothing and runs nothing, whatever else stands in the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_SHADES = (
    ("better", "over 1 point better"), ("same", "within 1 point"), ("less", "1 to 5 points lost"),
    ("lost", "5 to 15"), ("gone", "over 15"),
)  # fmt: skip


def report_html(stress: Stress, folder: str | os.PathLike[str]) -> str:
    """The report as an HTML document.

    Args:
        stress: content of a `stress.json`.
        folder: where its pictures lie.

    Raises:
        DataError: when it is no stress result, or a picture of it cannot be had.
    """
    place = Path(folder)
    check_format(stress, str(place / "stress.json"))
    title = f"Stress report: {stress['model']['name']} on {stress['data']['name']}"
    sections = [section for section in _sections(stress, place) if section is not None]
    links = [tag("a", section[0].text or "", href=f"#{section.get('id')}") for section in sections]
    top = tag(
        "header",
        tag("h1", title),
        tag("p", verdict(stress), class_="verdict"),
        _key(stress),
        tag("nav", links, aria_label="Contents"),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Path(__file__).with_name("report.css").read_text(encoding="utf-8")),
    )
    return (
        f"<!DOCTYPE html>\n{to_html(tag('html', head, tag('body', tag('main', top, sections)), lang='en'))}\n"
    )


def write_html(stress: Stress, folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` beside the result, atomically, and return its path.

    Raises:
        DataError: as :func:`report_html`.
    """
    text = report_html(stress, folder)
    path = Path(folder) / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _sections(stress: Stress, folder: Path) -> list[Element | None]:
    return [
        _findings(stress),
        _section("Every kind of stress", _shades(), overview(stress)),
        _curves(stress),
        _cases(stress, folder),
        _gates(stress),
        _requirements(stress),
        _suggestions(stress),
        _everything(stress),
        _provenance(stress),
    ]


def _section(title: str, *content: Content | Iterable[Content]) -> Element:
    return tag("section", tag("h2", title), *content, id=title.lower().replace(" ", "-"))


def _key(stress: Stress) -> Element:
    """The four figures to know, in words."""
    summary, main = stress["summary"], stress["main"]
    clean = main_figure(stress, clean_condition(stress))
    of = _images_of(stress)
    entries = [(f"{metric_label(stress, main)} as given", with_interval(clean), of)]
    if kinds(stress):
        steps = [step for kind in kinds(stress) for step in kind.steps]
        worst = worst_step(stress, steps)
        mean = number(summary.get("mean_over_conditions"))
        entries.append(("Mean under stress", mean, f"{len(steps)} conditions, {len(kinds(stress))} kinds"))
        entries.append(("Worst condition", with_interval(main_figure(stress, worst)), condition_title(worst)))
    error = summary.get("mean_corruption_error")
    if error is not None:
        entries.append(_corruption_error(stress, error, summary.get("relative_corruption_error")))
    if worst_class := summary.get("worst_class"):
        figures = f"{number(worst_class['mean'])}, clean {number(worst_class['clean'])}"
        entries.append(("Worst class under stress", str(worst_class["class"]), figures))
    parts = [
        tag("div", tag("dt", name), tag("dd", value, tag("small", more))) for name, value, more in entries
    ]
    return tag("dl", parts, class_="key")


def _images_of(stress: Stress) -> str:
    images, subjects = stress["data"]["images"], stress["data"].get("subjects")
    return f"{images} images" + (f" of {subjects} subjects" if subjects and subjects != images else "")


def _corruption_error(stress: Stress, error: float, relative: float | None) -> tuple[str, str, str]:
    """Hendrycks' mean corruption error beside a baseline; without one, errors beside the clean ones."""
    if stress.get("baseline"):
        more = f"; relative {number(relative)}" if relative is not None else ""
        return "Mean corruption error", number(error), f"1 is that of {stress['baseline']['name']}{more}"
    return "Errors under stress", f"{number(error, 1)} times", "as many as on the images as given"


def _findings(stress: Stress) -> Element:
    groups = [
        (tag("h3", title), tag("ul", [tag("li", sentence) for sentence in sentences]))
        for title, sentences in grouped_findings(stress).items()
    ]
    about = (
        "Points lost are differences on the same images, in brackets 95 % intervals over subjects. What "
        "breaks a model surely costs more than 5 points, what hurts it surely costs some; withstood is what "
        "costs at most 5 even at the bad end of its interval."
    )
    return _section("Findings", tag("p", about, class_="quiet"), [part for group in groups for part in group])


def _shades() -> Element:
    return tag("p", [tag("span", words, class_=f"swatch {name}") for name, words in _SHADES])


def _curves(stress: Stress) -> Element | None:
    found, ends = kinds(stress), value_range(stress)
    families: dict[str, list[Kind]] = {}
    for kind in found:
        families.setdefault(kind.family, []).append(kind)
    parts: list[Element] = []
    for index, (family, members) in enumerate(families.items()):
        parts.append(tag("h3", family_title(family)))
        charts = [(kind, f"curve-{index}-{i}") for i, kind in enumerate(members) if len(kind.steps) > 1]
        if charts:
            figures = [
                tag("figure", tag("figcaption", k.title), curve(stress, k, name, ends)) for k, name in charts
            ]
            parts.append(tag("div", figures, class_="charts"))
        single = [(kind, f"strip-{index}-{i}") for i, kind in enumerate(members) if len(kind.steps) == 1]
        if single:
            rows = [_strip_row(stress, kind, name, ends) for kind, name in single]
            parts.append(tag("table", tag("tbody", rows), class_="strips"))
    return _section("Course over severity", _legend(stress), parts) if found else None


def _strip_row(stress: Stress, kind: Kind, identity: str, ends: tuple[float, float]) -> Element:
    (step,) = kind.steps
    chart = tag("td", strip(stress, step, identity, ends))
    return tag(
        "tr", tag("th", kind.title, scope="row"), chart, tag("td", with_interval(main_figure(stress, step)))
    )


def _legend(stress: Stress) -> Element:
    def key(name: str, words: str) -> Element:
        line = tag("line", class_=name, x1=0, x2=26, y1=6, y2=6)
        return tag(
            "span", tag("svg", line, viewBox="0 0 26 12", class_="key-line", aria_hidden="true"), words
        )

    ring = tag("circle", class_="dot broken", cx=13, cy=6, r=4)
    keys = [
        key("line ours", f"{stress['model']['name']}, with 95 % interval"),
        key("clean", "clean"),
        tag(
            "span",
            tag("svg", ring, viewBox="0 0 26 12", class_="key-line", aria_hidden="true"),
            "surely more than 5 points lost",
        ),
    ]
    if stress.get("baseline"):
        keys.append(key("line theirs", stress["baseline"]["name"]))
    label = metric_label(stress, stress["main"])
    better = "higher" if stress["metrics"][stress["main"]]["higher_is_better"] else "lower"
    words = tag("p", f"{label}, {better} is better; all charts have one scale.", class_="quiet")
    return tag("div", words, tag("p", keys, class_="quiet legend"))


def _cases(stress: Stress, folder: Path) -> Element | None:
    cases = stress.get("cases") or {}
    groups = (("Hurt most", cases.get("worst") or []), ("Hurt least", cases.get("least") or []))
    parts = [
        part
        for title, shown in groups
        if shown
        for part in (tag("h3", title), tag("div", [_case(stress, c, folder) for c in shown], class_="cases"))
    ]
    about = "Left the image as given, right what the model was shown."
    if stress["task"] == "segmentation":
        about += " Below, on the right image: the true labels, and the model's."
    else:
        about += " The numbers are the probability of the true class, before and after."
    return _section("Cases", tag("p", about, class_="quiet"), parts) if parts else None


def _case(stress: Stress, case: Any, folder: Path) -> Element:
    condition = next((c for c in stress["conditions"] if c["id"] == case["condition"]), None)
    done = condition_title(condition) if condition else case["condition"]
    shown = {
        "clean_png": "as given",
        "stressed_png": f"after {done}",
        "truth_png": "with the true labels",
        "prediction_png": "with the predicted labels",
    }
    pictures = [
        tag("img", src=picture_data(folder, case[key]), alt=f"{case['image']}, {words}", title=words)
        for key, words in shown.items()
        if case.get(key)
    ]
    told = [f"label {_told(case['label'])}"] if case.get("label") is not None else []
    told += [f"predicted {_told(case['prediction'])}"] if case.get("prediction") is not None else []
    who = f", subject {case['subject']}" if case.get("subject") not in (None, case["image"]) else ""
    caption = tag(
        "figcaption",
        tag("b", f"{number(case['before'])} → {number(case['after'])}"),
        f"{case.get('description') or done}. ",
        f"{', '.join(told).capitalize()}. " if told else "",
        f"Image {case['image']}{who}.",
    )
    return tag("figure", tag("div", pictures, class_="pair") if pictures else None, caption)


def _told(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _gates(stress: Stress) -> Element | None:
    names = list(dict.fromkeys(name for c in stress["conditions"] for name in c.get("gates") or {}))
    if not names:
        return None
    about = (
        "A gate is a warning of the method itself, that an image is unlike its training images. Each dot "
        "is a condition; a useful gate rises to the right. Ring: clean images, where a warning is a false "
        "alarm. Red: conditions that break the model."
    )
    charts = [
        tag(
            "figure",
            tag("figcaption", in_words(name)),
            warnings_chart(stress, name, f"gate-{index}"),
            class_="wide",
        )
        for index, name in enumerate(names)
    ]
    axes = "Upwards: share of images warned of. To the right: points lost."
    return _section("Warnings before failure", tag("p", about), tag("p", axes, class_="quiet"), charts)


def _requirements(stress: Stress) -> Element | None:
    asked = stress.get("requirements") or []
    rows = [
        [
            one["text"],
            number(one["value"], 3),
            tag(
                "span", "met" if one["passed"] else "not met", class_="passed" if one["passed"] else "failed"
            ),
        ]
        for one in asked
    ]
    return (
        _section("Requirements", scrolling(plain_table(["Required", "Found", ""], rows))) if asked else None
    )


def _suggestions(stress: Stress) -> Element | None:
    found = stress.get("suggestions") or []
    about = (
        "Wrappers that need no training, each measured on the same images where the model lost more than 5 "
        "points, at the highest severity. Shown is what gives something back with an interval above 0, which "
        "is so by chance for 2.5 % of what gives nothing."
    )
    named = {condition["id"]: condition_title(condition) for condition in stress["conditions"]}
    label = metric_label(stress, stress["main"])
    rows = [
        [
            one["what"],
            named[one["condition"]],
            in_points(ends(one["gives_back"])),
            f"{number(one['with_it'])} instead of {number(one['without'])}",
            in_points(ends(one["as_given"])),
        ]
        for one in found
    ]
    heads = ["What", "For", "Gives back", label, "Change of images as given"]
    return (
        _section("What might help", tag("p", about, class_="quiet"), scrolling(plain_table(heads, rows)))
        if found
        else None
    )


def _everything(stress: Stress) -> Element:
    count = len(stress["conditions"])
    table = tag("div", everything(stress), class_="every")
    return _section(
        "All conditions", tag("details", tag("summary", f"{count} conditions with all figures"), table)
    )


def _provenance(stress: Stress) -> Element:
    made, data, model = stress.get("provenance") or {}, stress["data"], stress["model"]
    seconds = sum(condition.get("seconds") or 0 for condition in stress["conditions"])
    facts: list[tuple[str, Content]] = [
        ("Model", _joined([model["name"], model.get("source")])),
        ("Weights, sha256", tag("code", model["weights_sha256"]) if model.get("weights_sha256") else None),
        ("Baseline", _joined(stress["baseline"].values()) if stress.get("baseline") else None),
        ("Data", _joined([data["name"], data.get("split"), _images_of(stress)])),
        ("Data, sha256", tag("code", data["sha256"]) if data.get("sha256") else None),
        ("Command", tag("code", str(made["command"])) if made.get("command") else None),
        ("Work", f"{seconds:.0f} s for all conditions" if seconds else None),
    ]
    facts += [
        (in_words(key).capitalize(), _flat(value))
        for key, value in made.items()
        if key not in ("command", "data")
    ]
    entries = [(tag("dt", name), tag("dd", value)) for name, value in facts if value not in (None, "")]
    about = "The same command on the same files gives the same images and figures."
    return _section(
        "How this was made",
        tag("p", about, class_="quiet"),
        tag("dl", [p for e in entries for p in e], class_="facts"),
    )


def _joined(parts: Iterable[Any]) -> str:
    return ", ".join(str(part) for part in parts if part)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_flat(part) for part in value)
    return "" if value is None else plain(str(value))
