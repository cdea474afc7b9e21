"""The state of all random number generators of a run, of each of its processes, as tensors."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch


def random_state(generators: Mapping[str, torch.Generator]) -> dict[str, torch.Tensor]:
    """State of all random number generators as tensors, one row per process."""
    words, gauss = random.getstate()[1:]
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor(math.nan if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor(cached, dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.stack(torch.cuda.get_rng_state_all())
    state |= {f"generator:{name}": generator.get_state() for name, generator in generators.items()}
    return {name: _rows_of_all_processes(value) for name, value in state.items()}


def _rows_of_all_processes(value: torch.Tensor) -> torch.Tensor:
    if idist.get_world_size() == 1:
        return value[None]
    gathered: Any = idist.all_gather(value[None].to(idist.device()))
    rows: torch.Tensor = gathered.cpu()
    return rows


def restore_random(rows: Mapping[str, torch.Tensor], generators: Mapping[str, torch.Generator]) -> None:
    """Set all generators to the row of this process; a run on more processes uses the rows again in turn."""
    # Torch applies the offset of a view twice when it sets a generator, and crashes: hence the clone.
    state = {name: value[idist.get_rank() % len(value)].clone() for name, value in rows.items()}
    gauss = float(state["python_gauss"])
    random.setstate((3, tuple(state["python"].tolist()), None if math.isnan(gauss) else gauss))
    *keys, position, has_gauss = state["numpy"].tolist()
    np.random.set_state(
        ("MT19937", np.array(keys, np.uint32), position, has_gauss, float(state["numpy_gauss"]))
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        for device, value in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(value.clone(), device)
    for name, generator in generators.items():
        if f"generator:{name}" in state:
            generator.set_state(state[f"generator:{name}"])
