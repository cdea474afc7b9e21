"""Plain sentences of a stress result, each of which its figures bear out.

They judge what is lost on the same images, with its 95 % interval over subjects. More than 5 points lost for
sure breaks a model; points lost for sure, but perhaps not 5, hurt it; something is withstood when even the
bad end of the interval is within 5 points. All else is not decided by the data, and said to be so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robustmed_monai.apps.stress.reading import (
    OUTCOMES,
    Kind,
    Outcome,
    Stress,
    behind,
    breaks,
    capital,
    clean_condition,
    condition_title,
    defined,
    ends,
    family_name,
    in_points,
    kinds,
    loss,
    lost,
    main_figure,
    metric_label,
    number,
    opposite,
    outcome,
    percent,
    severity_text,
    with_interval,
    worst_step,
)

GAIN = 0.01  # that is worth a sentence
SHOWN = 6  # breaks that get a sentence of their own
# A gate that warns of fewer of the wrong images than this says nothing; of more, it does its work.
_SILENT, _AWAKE = 0.5, 0.9


def findings(stress: Stress) -> list[str]:
    """All sentences, the verdict first.

    Args:
        stress: content of a `stress.json`.

    Example:
        >>> figures = {"accuracy": {"mean": 0.9, "ci95": [0.88, 0.92]}}
        >>> clean = {"family": "clean", "name": "clean", "severity": 0, "figures": figures}
        >>> changes = {"accuracy": {"mean": 0.0, "ci95": [-0.01, 0.01]}}
        >>> fog = {"family": "imagenet_c", "name": "fog", "severity": 1, "figures": figures}
        >>> accuracy = {"higher_is_better": True, "label": "Accuracy"}
        >>> findings({"model": {"name": "net"}, "data": {"images": 9}, "main": "accuracy",
        ...           "metrics": {"accuracy": accuracy}, "conditions": [clean, fog | {"changes": changes}]})
        ['None of 1 kind of stress breaks net, 1 is withstood.', 'Withstood: fog (ImageNet-C).']
    """
    return [verdict(stress), *(sentence for group in grouped_findings(stress).values() for sentence in group)]


def verdict(stress: Stress) -> str:
    """One sentence or two: how many kinds of stress break the model, and which is worst."""
    all_kinds = kinds(stress)
    if not all_kinds:
        return f"{stress['model']['name']} was put under no stress."
    broken, hurt, open_, held = (_of(stress, name) for name in OUTCOMES)
    rest = [f"{len(hurt)} {'hurts' if len(hurt) == 1 else 'hurt'} it"] if hurt else []
    rest += [f"{len(held)} {_is(len(held))} withstood"] if held else []
    rest += [f"{len(open_)} {_is(len(open_))} not decided by {_data(stress)}"] if open_ else []
    of = f"of {len(all_kinds)} {_kinds(len(all_kinds))} of stress {'break' if len(broken) > 1 else 'breaks'}"
    head = f"{len(broken) or 'None'} {of} {stress['model']['name']}"
    sentence = f"{head}, {', '.join(rest)}." if rest else f"{head}."
    if not broken:
        return sentence
    worst = worst_step(stress, [step for kind in broken for step in kind.steps])
    means = [number(main_figure(stress, c)["mean"]) for c in (worst, clean_condition(stress))]
    figures = f"{_label(stress)} {means[0]} instead of {means[1]}, {in_points(lost(stress, worst))} lost"
    return f"{sentence} Worst is {condition_title(worst)}: {figures}."


def grouped_findings(stress: Stress) -> dict[str, list[str]]:
    """Sentences by what they are about, the most important group first; groups without any are left out."""
    groups = {
        "What breaks it": _broken(stress),
        "What hurts it": _hurt(stress),
        "What it withstands": [*_withstood(stress), *_better(stress)],
        "What is not decided": _open(stress),
        "Beside the baseline": _baseline(stress),
        "What warns": _gates(stress),
        "Confidence": _confidence(stress),
        "What gives something back": _suggested(stress),
        "Requirements": _requirements(stress),
    }
    return {title: sentences for title, sentences in groups.items() if sentences}


def _of(stress: Stress, name: Outcome) -> list[Kind]:
    """Kinds of stress of an outcome, the one that costs most first."""
    found = [kind for kind in kinds(stress) if outcome(stress, kind) == name]
    return sorted(found, key=lambda kind: -loss(stress, worst_step(stress, kind.steps)))


def _broken(stress: Stress) -> list[str]:
    broken = _of(stress, "broken")
    sentences = [_break(stress, kind) for kind in broken[:SHOWN]]
    if broken[SHOWN:]:
        # Sure though not the deepest: one sentence for all of them.
        sentences.append(f"Broken as well: {_listed(broken[SHOWN:])}.")
    return sentences


def _break(stress: Stress, kind: Kind) -> str:
    first = next(step for step in kind.steps if breaks(stress, step))
    worst, last = worst_step(stress, kind.steps), kind.steps[-1]
    at = f" at severity {severity_text(first)}" if len(kind.steps) > 1 else ""
    text = f"{_named(kind)}: {_label(stress)} loses {in_points(lost(stress, first))}{at}"
    if worst is not first:
        text += f", {in_points(lost(stress, worst))} at severity {severity_text(worst)}"
    means = [number(main_figure(stress, c)["mean"]) for c in (worst, clean_condition(stress))]
    text += f"; it is {means[0]} {'there' if at else 'then'}, {means[1]} as given."
    if not breaks(stress, last):
        mean = number(main_figure(stress, last)["mean"])
        text += f" At severity {severity_text(last)} it is {mean} again."
    return text


def _hurt(stress: Stress) -> list[str]:
    sentences = []
    for kind in _of(stress, "hurt"):
        worst = worst_step(stress, kind.steps)
        told = f"{capital(condition_title(worst))} hurts it: {in_points(lost(stress, worst))} lost"
        sentences.append(f"{told}, perhaps fewer than 5.")
    return sentences


def _withstood(stress: Stress) -> list[str]:
    found = _of(stress, "withstood")
    return [f"Withstood: {_listed(found)}."] if found else []


def _better(stress: Stress) -> list[str]:
    found = []
    for kind in kinds(stress):
        best = min(kind.steps, key=lambda step: loss(stress, step))
        gain = opposite(lost(stress, best))
        if gain[0] > 0 and gain[1] > GAIN:
            mean = number(main_figure(stress, best)["mean"])
            text = f"{condition_title(best)}, {_label(stress)} {mean}, {in_points(gain)} more"
            found.append(f"Better than clean: {text}.")
    return found


def _open(stress: Stress) -> list[str]:
    found = _of(stress, "open")
    if not found:
        return []
    most = worst_step(stress, found[0].steps)
    told = f"from nothing to more than 5 points, as {condition_title(most)}: {in_points(lost(stress, most))}"
    return [f"{_data(stress)} do not decide what is lost to {_listed(found)}; the interval reaches {told}."]


def _baseline(stress: Stress) -> list[str]:
    if not stress.get("baseline"):
        return []
    name, main = stress["baseline"]["name"], stress["main"]
    pairs = [c for c in stress["conditions"] if defined((c.get("advantages") or {}).get(main))]
    better = [c for c in pairs if behind(stress, c)[2] < 0]
    worse = [c for c in pairs if behind(stress, c)[0] > 0]
    equal = len(pairs) - len(better) - len(worse)
    counts = f"better in {len(better)}, worse in {len(worse)}, not told apart in {equal}"
    sentences = [f"Beside {name}, on the same images: {counts} of {len(pairs)} conditions."]
    for found, sign, word in ((better, -1, "ahead"), (worse, 1, "behind")):
        if found:
            most = max(found, key=lambda c: sign * behind(stress, c)[1])
            ours, theirs = (number(most[key][main]["mean"]) for key in ("figures", "baseline_figures"))
            by = in_points(behind(stress, most) if sign > 0 else opposite(behind(stress, most)))
            figures = f"{_label(stress)} {ours}, {name} {theirs}"
            sentences.append(f"Furthest {word}, by {by}: {condition_title(most)}, {figures}.")
    error = stress["summary"].get("mean_corruption_error")
    if error is not None:
        side = "fewer" if error < 1 else "more" if error > 1 else "as many"
        than = "as" if side == "as many" else "than"
        sentences.append(
            f"Mean corruption error {number(error)}: {side} errors {than} {name} on the average kind."
        )
    return sentences


def _suggested(stress: Stress) -> list[str]:
    """Where each remedy gives back most, and what it does to the images as given."""
    found, tried = stress.get("suggestions") or [], stress.get("remedies")
    if not tried:
        return []
    count = len(tried["names"]) * tried["conditions"]
    told = [f"Measured: {count} pairs of a wrapper and a lossy condition; {len(found)} give something back."]
    for name in dict.fromkeys(one["what"] for one in found):
        best = next(one for one in found if one["what"] == name)
        at = condition_title(next(c for c in stress["conditions"] if c["id"] == best["condition"]))
        means = f"{_label(stress)} {number(best['with_it'])} instead of {number(best['without'])}"
        text = f"{capital(name)} gives back most at {at}: {in_points(ends(best['gives_back']))}, {means}"
        told.append(f"{text}; images as given change by {in_points(ends(best['as_given']))}.")
    if none := [name for name in tried["names"] if name not in {one["what"] for one in found}]:
        told.append(f"Nowhere any help: {_comma(none)}.")
    return told


def _gates(stress: Stress) -> list[str]:
    names = dict.fromkeys(name for condition in stress["conditions"] for name in condition.get("gates") or {})
    return [sentence for name in names for sentence in _gate(stress, name)]


def _gate(stress: Stress, name: str) -> list[str]:
    clean = (clean_condition(stress).get("gates") or {}).get(name, {})
    sentences = []
    if clean.get("warned") is not None:
        sentences.append(f"{capital(name)} warns of {percent(clean['warned'])} of the clean images.")
    asked = [step for kind in kinds(stress) for step in kind.steps if breaks(stress, step)]
    known = [(c["gates"][name]["warned_when_wrong"], c) for c in asked if name in (c.get("gates") or {})]
    known = [(share, condition) for share, condition in known if share is not None]
    if not known:
        return sentences
    share, condition = min(known, key=lambda pair: pair[0])
    if share >= _AWAKE:
        text = f"Wherever the model breaks, {name} warns of at least {percent(share)} of what it gets wrong."
    else:
        silent = sum(share < _SILENT for share, _ in known)
        text = f"{capital(name)} sees least of {condition_title(condition)}: it warns of {percent(share)} of "
        text += "the images that the model gets wrong there"
        few = f"of fewer than half in {silent} of the {len(known)} conditions that break the model"
        text += f"; {few}." if silent else "."
    return [*sentences, text]


def _confidence(stress: Stress) -> list[str]:
    if "ece" not in stress["metrics"]:
        return []
    clean = clean_condition(stress)["figures"].get("ece")
    others = [c for c in stress["conditions"] if c["family"] != "clean" and defined(c["figures"].get("ece"))]
    worse = [c for c in others if defined(clean) and lost(stress, c, "ece")[0] > 0]
    if not worse:
        return []
    worst = max(worse, key=lambda c: loss(stress, c, "ece"))
    figures = f"{with_interval(worst['figures']['ece'])}, clean {with_interval(clean)}"
    return [
        f"Confidence is furthest from the truth under {condition_title(worst)}: calibration error {figures}."
    ]


def _requirements(stress: Stress) -> list[str]:
    return [
        f"{'Met' if asked['passed'] else 'Not met'}: {asked['text']} (found {number(asked['value'])})."
        for asked in stress.get("requirements") or []
    ]


def _listed(found: Sequence[Kind]) -> str:
    """Kinds by family: "fog, snow (ImageNet-C); ghosting (MR artefacts)"."""
    families: dict[str, list[str]] = {}
    for kind in found:
        families.setdefault(kind.family, []).append(kind.title)
    return "; ".join(f"{_comma(names)} ({family_name(family)})" for family, names in families.items())


def _data(stress: Stress) -> str:
    return f"{stress['data']['images']} images"


def _comma(words: Iterable[str]) -> str:
    return ", ".join(words)


def _named(kind: Kind) -> str:
    return f"{capital(kind.title)} ({family_name(kind.family)})"


def _label(stress: Stress) -> str:
    label = metric_label(stress, stress["main"])
    return label if label.isupper() or label.startswith("Dice") else label[:1].lower() + label[1:]


def _kinds(count: int) -> str:
    return "kind" if count == 1 else "kinds"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
