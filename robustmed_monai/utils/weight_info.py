"""What is known about weights, the ``info`` beside them: its digest, and whether it can be true."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from robustmed_monai.utils.errors import WeightsError

# Of heads, that weights may know.
CONTRASTS = ("T1", "FLAIR", "T2")


def info_digest(info: Mapping[str, Any]) -> str:
    """Return the sha256 of an ``info``, whatever the order and layout of its JSON.

    Raises:
        TypeError: when it holds anything but numbers, text, lists and dictionaries.
        ValueError: when a number is not finite.

    Example:
        >>> info_digest({"a": 1, "b": [2]}) == info_digest({"b": [2], "a": 1})
        True
    """
    text = json.dumps(info, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_info(info: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Refuse numbers that no training leaves: results would be wrong without a word.

    Thresholds (`calibration`) must be numbers that fall while their false positive rates rise;
    `training_statistics` numbers with no empty range and no standard deviation below 0; `spacing` above 0 mm,
    or none; `contrast` T1, FLAIR, T2, or none. What is known of a part of the weights is looked at as well.

    Args:
        info: what lies beside the weights.
        path: file that it was read from, for messages.

    Raises:
        WeightsError: for the first that cannot be true.
    """
    faults = {}
    if info.get("calibration") is not None:
        faults["calibration"] = _calibration_fault(info["calibration"])
    if info.get("training_statistics") is not None:
        faults["training_statistics"] = _statistics_fault(info["training_statistics"])
    if info.get("spacing") is not None:
        sides = info["spacing"] if isinstance(info["spacing"], list) else [info["spacing"]]
        faults["spacing"] = None if all(_is_number(s) and s > 0 for s in sides) else "is no size in mm"
    if info.get("contrast") not in (None, *CONTRASTS):
        faults["contrast"] = f"is {info['contrast']!r}, none of T1, FLAIR and T2"
    for key, fault in faults.items():
        if fault:
            raise WeightsError(f"{path}: info '{key}' {fault}; fetch the weights again, or train anew.")
    for part in info.values():
        if isinstance(part, Mapping) and "training_statistics" in part:
            check_info(part, path)


def _calibration_fault(calibration: Any) -> str | None:
    thresholds = calibration.get("thresholds") if isinstance(calibration, Mapping) else None
    if not isinstance(thresholds, Mapping) or not thresholds:
        return "has no thresholds by false positive rate"
    try:
        rates = sorted(thresholds, key=float)
    except (TypeError, ValueError):
        return f"names false positive rates that are no numbers: {list(thresholds)}"
    values = [thresholds[rate] for rate in rates]
    if not all(0 < float(rate) < 1 for rate in rates) or not all(map(_is_number, values)):
        return f"has thresholds that are no numbers by rates between 0 and 1: {dict(thresholds)}"
    if values != sorted(values, reverse=True):
        return f"has thresholds that do not fall with the rate: {dict(zip(rates, values, strict=True))}"
    return None


def _statistics_fault(statistics: Any) -> str | None:
    if not isinstance(statistics, Mapping):
        return f"is a {type(statistics).__name__}, not statistics by name"
    for name, known in statistics.items():
        if not isinstance(known, Mapping) or not all(_is_number(v) for v in _flat(list(known.values()))):
            return f"has a '{name}' that is not made of numbers"
        if any(value < 0 for value in _flat([known.get("std", 0)])):
            return f"has a '{name}' with a standard deviation below 0"
        limits = [known[key] for key in ("low", "high") if key in known]
        if limits and not (len(limits) == 2 and all(map(_is_number, limits)) and limits[0] <= limits[1]):
            return f"has a '{name}' with an empty range"
    return None


def _flat(values: list[Any]) -> list[Any]:
    return [v for value in values for v in (_flat(value) if isinstance(value, list) else [value])]


def _is_number(value: Any) -> bool:
    # Whole numbers of JSON may be larger than any float; NaN is smaller than nothing.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
