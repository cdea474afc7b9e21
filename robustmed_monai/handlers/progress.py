"""A progress bar for runs that several processes share."""

from __future__ import annotations

from ignite.handlers import ProgressBar


class FirstProgressBar(ProgressBar):
    """ignite's progress bar, shown by the first process of a run and on a terminal only.

    Args:
        desc: words before the bar.
        rank: number of this process.
    """

    def __init__(self, desc: str = "inference", rank: int = 0) -> None:
        # tqdm takes None for "where there is a terminal".
        super().__init__(desc=desc, disable=True if rank else None)
