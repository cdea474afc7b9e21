"""A method calibrated to one's own scanner: what healthy images of a site score, kept in a small file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events

from robustmed_monai.metrics.conformal import conformal_p_values, conformal_threshold, images_needed
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.files import read_json, write_json
from robustmed_monai.utils.fingerprint import digest_objects
from robustmed_monai.utils.provenance import provenance

if TYPE_CHECKING:
    from robustmed_monai.handlers.result_writer import ResultWriter
    from robustmed_monai.inferers.healthy_reference import HealthyReference

logger = logging.getLogger(__name__)

_CONTENT = (
    "score",
    "slice_score",
    "sign",
    "scores",
    "slice_maxima",
    "map_maxima",
    "made_from",
    "images",
    "reference",
)
_SHOWN_SHARES = (0.1, 0.05, 0.01)


@dataclass(frozen=True)
class SiteCalibration:
    """Scores of n healthy images of a site, higher is more abnormal after ``sign``.

    Args:
        name: file name.
        sha256: of the content.
        score: key of an image's score in its report, with a point between nested keys.
        slice_score: key of a slice's score in an entry of the report's `slices`.
        sign: 1, or -1 where a low value is the abnormal one.
        scores: of the images (n,).
        slice_maxima: highest score of a slice of each image (n,), or () where reports have no slices.
        map_maxima: highest value of each image's map (n,), or () where reports have no `map_maximum`.
        share: share of healthy images that may show anything in their mask; None: the mask is not the site's.
        reference: file, digest and number of images of the healthy reference that maps are divided by.
    """

    name: str
    sha256: str
    score: str
    slice_score: str | None
    sign: int
    scores: tuple[float, ...]
    slice_maxima: tuple[float, ...]
    map_maxima: tuple[float, ...]
    share: float | None = None
    reference: Mapping[str, Any] | None = None

    def threshold(self) -> float | None:
        """Value of the map that at most ``share`` of healthy images reach anywhere."""
        if self.share is None:
            return None
        if not self.map_maxima:
            raise ConfigError(
                f"share: {self.name} was made by a method without an anomaly map; leave it out."
            )
        return conformal_threshold(self.map_maxima, self.share)

    def complete(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return a report with `p_value`, of each slice too, and `site`: the file, its digest and n.

        The p-value of an image is among the images of the site. That of a slice is among the highest slices
        of each of them: at most a share a of healthy images has any slice with p <= a.
        """
        result = {**report, "p_value": self._p_value(self.scores, value_at(report, self.score))}
        if self.slice_maxima and "slices" in report:
            slices = [
                {**entry, "p_value": self._p_value(self.slice_maxima, entry.get(self.slice_score))}
                for entry in report["slices"]
            ]
            result["slices"] = slices
        site: dict[str, Any] = {"file": self.name, "sha256": self.sha256, "images": len(self.scores)}
        if self.share is not None:
            # The threshold is that of a share of images, no longer that of a rate of pixels.
            result.pop("threshold_fpr", None)
            site["share"] = self.share
        if self.reference is not None:
            site["reference"] = dict(self.reference)
        return {**result, "site": site}

    def _p_value(self, healthy: Sequence[float], value: float | None) -> float | None:
        if value is None:
            return None
        return round(float(conformal_p_values(healthy, self.sign * value)), 6)


def value_at(report: Mapping[str, Any], key: str) -> float | None:
    """Value of a nested key, such as ``scores.elbo``.

    Raises:
        ConfigError: when the report has no such key.

    Example:
        >>> value_at({"scores": {"elbo": 2.0}}, "scores.elbo")
        2.0
    """
    value: Any = report
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"score={key!r}: the reports have {sorted(report)}.")
        value = value[part]
    return None if value is None else float(value)


class SiteCalibrator:
    """Ignite handler that writes, after a run over healthy images, what they scored.

    Args:
        writer: of the run; all its images are healthy. Those that could not be used are left out.
        path: file to write (JSON).
        score: see ``SiteCalibration``.
        slice_score: see ``SiteCalibration``.
        sign: see ``SiteCalibration``.
        made_from: what scores depend on beside the image: network, preprocessing, inferer.
        reference: the healthy reference that the scores are relative to, made of other images.
    """

    def __init__(
        self,
        writer: ResultWriter,
        path: str | os.PathLike[str],
        score: str,
        slice_score: str | None = None,
        sign: int = 1,
        made_from: Sequence[Any] = (),
        reference: HealthyReference | None = None,
    ) -> None:
        self.reference = None if reference is None else reference.entry()
        self.writer = writer
        self.path = path
        self.score = score
        self.slice_score = slice_score
        self.sign = sign
        # Taken before the run, in which transforms and inferers may keep things for later.
        self.made_from = digest_objects(*made_from)

    def attach(self, engine: Engine) -> None:
        """Write when the run is over."""
        engine.add_event_handler(Events.COMPLETED, self.write)

    def write(self) -> Path | None:
        """Write the file and return its path; without any result there is none, and the writer says why.

        Raises:
            DataError: when no image was assessed.
        """
        reports = self.writer.reports()
        if not reports:
            return None
        scores = [value_at(report, self.score) for report in reports]
        pairs = zip(reports, scores, strict=True)
        known = [(report, self.sign * score) for report, score in pairs if score is not None]
        if not known:
            raise DataError(
                f"{self.writer.output_dir}: none of {len(reports)} images was assessed, so there is nothing "
                "to calibrate with; look at the warnings of their reports."
            )
        used = [report for report, _ in known]
        content = {
            "score": self.score,
            "slice_score": self.slice_score,
            "sign": self.sign,
            "scores": [score for _, score in known],
            "slice_maxima": _slice_maxima(used, self.slice_score, self.sign),
            "map_maxima": _map_maxima(used),
            "made_from": self.made_from,
            "images": [report["image"] for report in used],
            "reference": self.reference,
        }
        target = write_json(self.path, {**content, "sha256": _digest(content), "provenance": provenance()})
        possible = [f"{share:g}" for share in _SHOWN_SHARES if images_needed(share) <= len(used)]
        logger.info(
            "%s: calibrated with %d of %d healthy images; p-values go down to %.3g, possible shares: %s. "
            "Apply it with --site %s",
            *(target, len(used), len(reports), 1 / (len(used) + 1), ", ".join(possible) or "none", target),
        )
        return target


def load_site(
    path: str | os.PathLike[str] | None, made_from: Sequence[Any] = (), share: float | None = None
) -> SiteCalibration | None:
    """Read a file of ``SiteCalibrator``; None for None.

    Args:
        path: the file.
        made_from: what the scores to be compared are made from: network, preprocessing, inferer.
        share: see ``SiteCalibration``.

    Raises:
        ConfigError: when it was made by other weights or settings, for a share without a file, or one that
            the number of images cannot vouch for.
        DataError: when it is no such file, or was changed since.
    """
    if path is None:
        if share is not None:
            raise ConfigError(
                f"share={share}: needs --site, a file that `robustmed calibrate METHOD FOLDER` writes."
            )
        return None
    content = read_json(path)
    if not isinstance(content, dict) or any(key not in content for key in (*_CONTENT, "sha256")):
        raise DataError(f"{path}: no file of `robustmed calibrate`; it writes one.")
    if content["sha256"] != _digest({key: content[key] for key in _CONTENT}):
        raise DataError(f"{path}: was changed after it was written; run `robustmed calibrate` again.")
    if content["made_from"] != digest_objects(*made_from):
        raise ConfigError(
            f"site {path}: was made with other weights or settings, or another version of this package; run "
            "`robustmed calibrate` again with these."
        )
    site = SiteCalibration(
        name=Path(path).name,
        sha256=content["sha256"],
        score=content["score"],
        slice_score=content["slice_score"],
        sign=content["sign"],
        scores=tuple(content["scores"]),
        slice_maxima=tuple(content["slice_maxima"]),
        map_maxima=tuple(content["map_maxima"]),
        share=share,
        reference=content["reference"],
    )
    site.threshold()
    return site


def mask_threshold(site: SiteCalibration | None = None, otherwise: float | None = None) -> float | None:
    """Threshold of the mask: the site's, when it has a share, else another.

    Args:
        site: from ``load_site``.
        otherwise: such as that of a rate of healthy pixels; None for no mask.

    MONAI leaves out an argument whose component returns None.
    """
    own = None if site is None else site.threshold()
    return otherwise if own is None else own


def _slice_maxima(reports: Sequence[Mapping[str, Any]], key: str | None, sign: int) -> list[float]:
    """Highest score of a slice of each report; nothing where the reports have no slices."""
    if key is None or not all("slices" in report for report in reports):
        return []
    return [max(sign * e[key] for e in report["slices"] if e[key] is not None) for report in reports]


def _map_maxima(reports: Sequence[Mapping[str, Any]]) -> list[float]:
    if not all("map_maximum" in report for report in reports):
        return []
    return [report["map_maximum"] for report in reports]


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
