"""Active learning: the study that a bundle scores highest comes first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from robustmed_monai.apps.monailabel.methods import Report, Urgency
from robustmed_monai.utils.errors import ImageError

logger = logging.getLogger(__name__)


class HighestScoreFirst(Strategy):
    """Chooses the unlabelled image with the highest score.

    Scores are kept in the datastore, so that each image is scored once. A request scores for at most
    ``max_seconds``, so that other requests for models, which wait for it, get their turn; the next request
    goes on. Images of which nothing could be assessed have no score and come last. Images that cannot be used
    are passed over. The reason for either is in the image's info.

    Args:
        urgency: name under which scores are kept, and how to make one of a report.
        report: path of an image to a bundle's report.
    """

    def __init__(self, urgency: Urgency, report: Callable[[str], Report]) -> None:
        super().__init__(urgency.description)
        self.name = urgency.name
        self.urgency = urgency
        self.report = report

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose an image.

        Args:
            request: ``max_seconds``, default 60.
            datastore: the studies.

        Returns:
            ``id``, ``score``, ``scored`` (how many images have one), ``unassessed`` (how many have none, as
            all of them is unlike the training data), ``waiting`` (how many have not been looked at yet) and
            ``unusable``; with a score of None the ``reason``. None when there is no unlabelled image that can
            be used.
        """
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        deadline = time.monotonic() + float(request.get("max_seconds", 60))
        seen: dict[str, dict[str, Any]] = {}
        waiting = unusable = 0
        for image in images:
            found = self._kept(image, datastore)
            if found is None and (not seen or time.monotonic() < deadline):
                found = self._look(image, datastore)
            if found is None:
                waiting += 1
            elif "error" in found:
                unusable += 1
            else:
                seen[image] = found
        if not seen:
            return None
        scores = {image: found["score"] for image, found in seen.items() if found["score"] is not None}
        first = max(scores, key=lambda image: scores[image]) if scores else next(iter(seen))
        counts = {"scored": len(scores), "unassessed": len(seen) - len(scores)}
        return {"id": first, **seen[first], **counts, "waiting": waiting, "unusable": unusable}

    def _kept(self, image: str, datastore: Datastore) -> dict[str, Any] | None:
        kept: dict[str, Any] | None = datastore.get_image_info(image).get("urgency", {}).get(self.name)
        return kept

    def _look(self, image: str, datastore: Datastore) -> dict[str, Any]:
        found: dict[str, Any]
        try:
            report = self.report(datastore.get_image_uri(image))
            found = {"score": self.urgency.score(report)}
            if found["score"] is None:
                found["reason"] = "; ".join(report["warnings"])
        except ImageError as error:
            logger.warning("%s: not scored: %s", image, error)
            found = {"error": str(error)}
        others = datastore.get_image_info(image).get("urgency", {})
        datastore.update_image_info(image, {"urgency": {**others, self.name: found}})
        return found
