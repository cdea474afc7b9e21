"""Active learning: the study that a bundle scores highest comes first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from robustmed_monai.utils.errors import ImageError

logger = logging.getLogger(__name__)


class HighestScoreFirst(Strategy):
    """Chooses the unlabelled image with the highest score.

    Scores are kept in the datastore, so that each image is scored once. A request scores for at most
    ``max_seconds``, so that the server, which does one thing at a time, answers again; the next request goes
    on. Images that cannot be used are passed over, with the reason in their info.

    Args:
        name: name under which scores are kept.
        description: one sentence for users.
        score: path of an image to its score.
    """

    def __init__(self, name: str, description: str, score: Callable[[str], float]) -> None:
        super().__init__(description)
        self.name = name
        self.score = score

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose an image.

        Args:
            request: ``max_seconds``, default 60.
            datastore: the studies.

        Returns:
            ``id``, ``score``, ``scored`` (how many images have one), ``waiting`` (how many have not been
            looked at yet) and ``unusable``; None when there is no unlabelled image that can be used.
        """
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        deadline = time.monotonic() + float(request.get("max_seconds", 60))
        scores: dict[str, float] = {}
        waiting = unusable = 0
        for image in images:
            found = self._kept(image, datastore)
            if found is None and (not scores or time.monotonic() < deadline):
                found = self._look(image, datastore)
            if found is None:
                waiting += 1
            elif "error" in found:
                unusable += 1
            else:
                scores[image] = found["score"]
        if not scores:
            return None
        first = max(scores, key=lambda image: scores[image])
        counts = {"scored": len(scores), "waiting": waiting, "unusable": unusable}
        return {"id": first, "score": scores[first], **counts}

    def _kept(self, image: str, datastore: Datastore) -> dict[str, Any] | None:
        kept: dict[str, Any] | None = datastore.get_image_info(image).get("urgency", {}).get(self.name)
        return kept

    def _look(self, image: str, datastore: Datastore) -> dict[str, Any]:
        found: dict[str, Any]
        try:
            found = {"score": self.score(datastore.get_image_uri(image))}
        except ImageError as error:
            logger.warning("%s: not scored: %s", image, error)
            found = {"error": str(error)}
        others = datastore.get_image_info(image).get("urgency", {})
        datastore.update_image_info(image, {"urgency": {**others, self.name: found}})
        return found
