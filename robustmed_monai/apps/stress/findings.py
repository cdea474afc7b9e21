"""Plain sentences of a stress result, each of which its figures bear out.

A fall is a finding when it is larger than 5 points and the 95 % intervals are apart. Something is withstood
when even the bad end of the interval is within 5 points of the clean figure. All else is not decided by the
data, and said to be so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robustmed_monai.apps.stress.reading import (
    Condition,
    Kind,
    Stress,
    breaks,
    capital,
    clean_condition,
    condition_title,
    defined,
    family_name,
    kinds,
    loss,
    main_figure,
    metric_label,
    number,
    outcome,
    percent,
    severity_text,
    surely_worse,
    with_interval,
    worst_step,
)

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
        >>> fog = {"family": "imagenet_c", "name": "fog", "severity": 1, "figures": figures}
        >>> accuracy = {"higher_is_better": True, "label": "Accuracy"}
        >>> findings({"model": {"name": "net"}, "data": {"images": 9}, "main": "accuracy",
        ...           "metrics": {"accuracy": accuracy}, "conditions": [clean, fog]})
        ['None of 1 kind of stress breaks net, 1 is withstood.', 'Withstood: fog (ImageNet-C).']
    """
    return [verdict(stress), *(sentence for group in grouped_findings(stress).values() for sentence in group)]


def verdict(stress: Stress) -> str:
    """One sentence or two: how many kinds of stress break the model, and which is worst."""
    all_kinds = kinds(stress)
    broken = [kind for kind in all_kinds if outcome(stress, kind) == "broken"]
    counts = {name: sum(outcome(stress, k) == name for k in all_kinds) for name in ("withstood", "open")}
    rest = [f"{counts['withstood']} {_is(counts['withstood'])} withstood"] if counts["withstood"] else []
    if counts["open"]:
        rest.append(
            f"{counts['open']} {_is(counts['open'])} not decided by {stress['data']['images']} images"
        )
    of = f"of {len(all_kinds)} {_kinds(len(all_kinds))} of stress {'break' if len(broken) > 1 else 'breaks'}"
    head = f"{len(broken) or 'None'} {of} {stress['model']['name']}"
    if not all_kinds:
        return f"{stress['model']['name']} was put under no stress."
    sentence = f"{head}, {', '.join(rest)}." if rest else f"{head}."
    if not broken:
        return sentence
    worst = worst_step(stress, [step for kind in broken for step in kind.steps])
    label, clean = _label(stress), main_figure(stress, clean_condition(stress))
    figures = f"{label} {with_interval(main_figure(stress, worst))} instead of {with_interval(clean)}"
    return f"{sentence} Worst is {condition_title(worst)}: {figures}."


def grouped_findings(stress: Stress) -> dict[str, list[str]]:
    """Sentences by what they are about, the most important group first; groups without any are left out."""
    groups = {
        "What breaks it": _broken(stress),
        "What it withstands": [*_withstood(stress), *_better(stress)],
        "What is not decided": _open(stress),
        "Beside the baseline": _baseline(stress),
        "What warns": _gates(stress),
        "Confidence": _confidence(stress),
        "Requirements": _requirements(stress),
    }
    return {title: sentences for title, sentences in groups.items() if sentences}


def _broken(stress: Stress) -> list[str]:
    broken = [kind for kind in kinds(stress) if outcome(stress, kind) == "broken"]
    broken.sort(key=lambda kind: -loss(stress, worst_step(stress, kind.steps)))
    sentences = [_break(stress, kind) for kind in broken[:SHOWN]]
    if broken[SHOWN:]:
        # Sure though not the deepest: one sentence for all of them.
        sentences.append(f"Broken as well: {_listed(broken[SHOWN:])}.")
    return sentences


def _break(stress: Stress, kind: Kind) -> str:
    first = next(step for step in kind.steps if breaks(stress, step))
    worst, last = worst_step(stress, kind.steps), kind.steps[-1]
    clean = main_figure(stress, clean_condition(stress))
    several = len(kind.steps) > 1
    at = f" at severity {severity_text(first)}" if several else ""
    text = f"{_named(kind)}: {_label(stress)} {with_interval(main_figure(stress, first))}{at}"
    if worst is not first:
        text += f", {with_interval(main_figure(stress, worst))} at severity {severity_text(worst)}"
    text += f"; clean {with_interval(clean)}."
    if not breaks(stress, last):
        text += f" At severity {severity_text(last)} it is {with_interval(main_figure(stress, last))} again."
    return text


def _withstood(stress: Stress) -> list[str]:
    found = [kind for kind in kinds(stress) if outcome(stress, kind) == "withstood"]
    return [f"Withstood: {_listed(found)}."] if found else []


def _better(stress: Stress) -> list[str]:
    clean = clean_condition(stress)
    found = []
    for kind in kinds(stress):
        best = min(kind.steps, key=lambda step: loss(stress, step))
        if surely_worse(stress, main_figure(stress, clean), main_figure(stress, best)):
            figures = [with_interval(main_figure(stress, condition)) for condition in (best, clean)]
            text = f"{condition_title(best)}, {_label(stress)} {figures[0]}, clean {figures[1]}"
            found.append(f"Better than clean: {text}.")
    return found


def _open(stress: Stress) -> list[str]:
    found = [kind for kind in kinds(stress) if outcome(stress, kind) == "open"]
    if not found:
        return []
    clean = with_interval(main_figure(stress, clean_condition(stress)))
    why = f"the intervals are too wide for a verdict (clean {clean})"
    return [f"{stress['data']['images']} images do not decide about {_listed(found)}: {why}."]


def _baseline(stress: Stress) -> list[str]:
    if not stress.get("baseline"):
        return []
    name, main = stress["baseline"]["name"], stress["main"]
    pairs = [
        (c, ours, theirs)
        for c in stress["conditions"]
        if defined(ours := c["figures"].get(main))
        and defined(theirs := (c.get("baseline_figures") or {}).get(main))
    ]
    better = [c for c, ours, theirs in pairs if surely_worse(stress, theirs, ours)]
    worse = [c for c, ours, theirs in pairs if surely_worse(stress, ours, theirs)]
    equal = len(pairs) - len(better) - len(worse)
    counts = f"better in {len(better)}, worse in {len(worse)}, not told apart in {equal}"
    sentences = [f"Beside {name}: {counts} of {len(pairs)} conditions."]
    for word, found, sign in (("gain", better, 1), ("loss", worse, -1)):
        if found:
            most = max(found, key=lambda c: sign * _advantage(stress, c))
            ours, theirs = (with_interval(most[key][main]) for key in ("figures", "baseline_figures"))
            sentences.append(
                f"Largest {word}: {condition_title(most)}, {_label(stress)} {ours}; {name} {theirs}."
            )
    error = stress["summary"].get("mean_corruption_error")
    if error is not None:
        side = "fewer" if error < 1 else "more" if error > 1 else "as many"
        than = "as" if side == "as many" else "than"
        sentences.append(
            f"Mean corruption error {number(error)}: {side} errors {than} {name} on the average kind."
        )
    return sentences


def _advantage(stress: Stress, condition: Condition) -> float:
    main = stress["main"]
    sign = 1 if stress["metrics"][main]["higher_is_better"] else -1
    return sign * float(condition["figures"][main]["mean"] - condition["baseline_figures"][main]["mean"])


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
    worse = [c for c in others if defined(clean) and surely_worse(stress, c["figures"]["ece"], clean, "ece")]
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


def _comma(words: Iterable[str]) -> str:
    return ", ".join(words)


def _named(kind: Kind) -> str:
    return f"{capital(kind.title)} ({family_name(kind.family)})"


def _label(stress: Stress) -> str:
    label = metric_label(stress, stress["main"])
    return label if label.isupper() else label[:1].lower() + label[1:]


def _kinds(count: int) -> str:
    return "kind" if count == 1 else "kinds"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
