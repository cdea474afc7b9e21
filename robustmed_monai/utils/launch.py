"""``torch.distributed.run`` without its traceback: a process that fails has said why itself.

python -m robustmed_monai.utils.launch --standalone --nproc_per_node 2 -m robustmed_monai.cli infer ra folder
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Start the processes that the words of ``torch.distributed.run`` ask for; 1 when one of them failed."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(list(sys.argv[1:] if argv is None else argv)))
    except ChildFailedError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
