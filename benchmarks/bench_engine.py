"""Training steps of RA: the engine beside a bare loop, RA beside Soft-IntroVAE, and what switches are worth.

    python benchmarks/bench_engine.py [--rounds 8] [--device cpu] [--output results.json]

Everything is built from ``bundles/ra/configs/train.json`` (compact network, 128 px, batches of 8), so that
what is timed is what the bundle runs. A round is an epoch of 9 steps; all steps are those after the warm-up.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from monai.data.dataset import CacheDataset
from monai.transforms import Compose, RandAffined, RandFlipd
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.timing import (
    Row,
    Work,
    brain_slices,
    interleaved,
    memory_rows,
    options,
    peak_memory,
    row,
    save,
    seconds_in_new_process,
)
from robustmed_monai.data.slice_dataset import identity_collate
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.transforms.batch_affine import BatchRandAffine
from robustmed_monai.utils.provenance import CHECKOUT

TRAIN = CHECKOUT / "bundles/ra/configs/train.json"
BARE = "bare loop"
# glibc gives memory back after every step and asks for it in the next; so it keeps what it has.
KEEP = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "100000000",
}
TINY: dict[str, Any] = {"image_size": 32, "channels": [4, 8, 8], "latent_size": 8}

log = logging.getLogger("benchmark")


def bundle(output: str, count: int, device: str, quick: bool, **overrides: Any) -> ConfigWorkflow:
    """The bundle's training on virtual heads, after its initialisation, before its run.

    The learning rate is small, so that the weights hardly change while they are timed; the time of a step
    does not depend on it.
    """
    images = brain_slices(count, 32 if quick else 128)
    data = {"train#dataset": slice_dataset(images), "validate#dataset": slice_dataset(images[:8])}
    fixed = {"warmup_epochs": 0, "max_epochs": 100_000, "learning_rate": 1e-6, "device": torch.device(device)}
    sizes = TINY if quick else {}
    settings = {**data, **fixed, **sizes, "output_dir": output, **overrides}
    workflow = ConfigWorkflow([str(TRAIN)], logging_file=False, workflow_type="train", **settings)
    workflow.initialize()
    return workflow


def slice_dataset(images: torch.Tensor) -> TensorDataset:
    """Images (N, 1, X, Y) as a data set in memory."""
    return TensorDataset({"image": images})


def engine_epoch(
    handlers: bool, output: str, count: int, device: str, quick: bool, overrides: dict[str, Any] | None = None
) -> Work:
    """An epoch by the bundle's trainer, with the handlers of train.json or without any.

    With them the losses go to TensorBoard, a progress bar runs (on a terminal), and a checkpoint is written
    after every epoch (the bundle: every fourth). Validation is left out: the bare loop has none.
    """
    more: dict[str, Any] = (
        {"val_interval": 100_000, "checkpoint#interval": 1} if handlers else {"train#handlers": []}
    )
    workflow = bundle(output, count, device, quick, **more, **(overrides or {}))
    trainer: Any = workflow.parser.get_parsed_content("train#trainer")
    if handlers:
        workflow.parser.get_parsed_content("checkpoint").attach(trainer)
    trainer.state.epoch = 0

    def epoch() -> None:
        trainer.state.max_epochs = trainer.state.epoch + 1
        trainer.run()

    return epoch


def bare_epoch(
    output: str, count: int, device: str, quick: bool, overrides: dict[str, Any] | None = None
) -> Work:
    """The same steps on the same data as a plain loop: no engine, no events, no checks."""
    content = bundle(output, count, device, quick, **(overrides or {})).parser.get_parsed_content
    networks = dict(content("network").named_children())
    optimizers, loss = content("optimizers"), content("objectives")
    loader, augment = content("train#dataloader"), content("train#augmentation")
    generator = torch.Generator().manual_seed(0)
    for network in networks.values():
        network.to(device, memory_format=torch.channels_last).train()

    def epoch() -> None:
        for data in loader:
            image = data["image"].to(device, memory_format=torch.channels_last)
            batch = augment({"image": image}, generator)
            for phase, optimizer in optimizers.items():
                for name, network in networks.items():
                    network.requires_grad_(name == phase)
                optimizer.zero_grad()
                getattr(loss, phase)(networks, batch, generator)["loss"].backward()
                optimizer.step()

    return epoch


def loading(images: torch.Tensor, batch_size: int) -> dict[str, Work]:
    """An epoch of batches, plain and augmented, by our data set and by MONAI's per-item one."""
    collate: Any = identity_collate  # gets whole batches
    ours = DataLoader(slice_dataset(images), batch_size, shuffle=True, collate_fn=collate)
    augment, generator = BatchRandAffine(5.0, 0.02, (0.95, 1.05)), torch.Generator().manual_seed(0)
    items = [{"image": image} for image in images]
    shift, zoom = [0.02 * images.shape[-1]] * 2, [(-0.05, 0.05)] * 2
    affine = RandAffined(
        "image", prob=1.0, rotate_range=0.0873, translate_range=shift, scale_range=zoom, padding_mode="zeros"
    )
    peers = [
        DataLoader(CacheDataset(items, transform, progress=False), batch_size, shuffle=True)
        for transform in (Compose([]), Compose([affine, RandFlipd("image", prob=0.5, spatial_axis=0)]))
    ]

    def augmented() -> None:
        for batch in ours:
            augment(batch, generator)

    return {
        "loading": lambda: [None for _ in ours],
        "loading, CacheDataset": lambda: [None for _ in peers[0]],
        "loading and augmentation": augmented,
        "loading and augmentation, CacheDataset": lambda: [None for _ in peers[1]],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file."""
    chosen = options("engine", __doc__, 8, arguments)
    count = 16 if chosen.quick else 72
    place = (count, chosen.device, chosen.quick)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's own, once per workflow
        rows = _step_rows(folder, place, chosen.rounds)
        rows += _loading_rows(count, chosen.quick, chosen.rounds)
        if not chosen.quick:
            rows += [] if chosen.no_compile else _compile_rows(folder, place, chosen.rounds)
            rows += _allocator_rows(folder, place, chosen.rounds)
            rows += _memory_rows(folder, place)
    save(chosen, rows, seeds=[0], batch=8, steps_per_round=count // 8)


def _step_rows(folder: str, place: tuple[int, str, bool], rounds: int) -> list[Row]:
    siv, amp = {"loss#lambda_emb": 0.0}, {"amp": True}
    works = {
        "bare": bare_epoch(f"{folder}/bare", *place),
        "engine": engine_epoch(False, f"{folder}/engine", *place),
        "handlers": engine_epoch(True, f"{folder}/handlers", *place),
        "SI-VAE": engine_epoch(False, f"{folder}/sivae", *place, siv),
        "amp": engine_epoch(False, f"{folder}/amp", *place, amp),
    }
    seconds = interleaved(works, rounds, place[1])
    pairs = [
        ("engine without handlers", "engine", "bare", BARE),
        ("engine with the bundle's handlers", "handlers", "bare", BARE),
        ("step of RA", "engine", "SI-VAE", "step of Soft-IntroVAE"),
        ("RA in bfloat16 (amp)", "amp", "engine", "float32"),
    ]
    return [_per_step(case, seconds[ours], seconds[peer], name, place) for case, ours, peer, name in pairs]


def _loading_rows(count: int, quick: bool, rounds: int) -> list[Row]:
    works = loading(brain_slices(count, 32 if quick else 128), 8)
    seconds = interleaved(works, rounds)
    peer = "CacheDataset"
    return [
        row(case, seconds[case], seconds[f"{case}, {peer}"], peer, "us/image", 1e6 / count)
        for case in works
        if not case.endswith(peer)
    ]


def _compile_rows(folder: str, place: tuple[int, str, bool], rounds: int) -> list[Row]:
    works = {
        "compiled": engine_epoch(False, f"{folder}/compiled", *place, {"compile": True}),
        "eager": engine_epoch(False, f"{folder}/eager", *place),
    }
    try:
        seconds = interleaved(works, rounds, place[1])
    # torch raises many kinds where a compiler or a kernel is missing; the other rows do not depend on it.
    except Exception:
        log.exception("torch.compile does not work here; no row")
        return []
    return [_per_step("RA compiled (torch.compile)", seconds["compiled"], seconds["eager"], "eager", place)]


def _allocator_rows(folder: str, place: tuple[int, str, bool], rounds: int) -> list[Row]:
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(2):
        for keep in (True, False):
            log.info("allocator keeps memory: %s, process %d of 2", keep, turn + 1)
            seconds[keep] += seconds_in_new_process(
                engine_epoch,
                False,
                f"{folder}/allocator",
                *place,
                rounds=-(-rounds // 2),
                env=KEEP if keep else {},
            )
    return [_per_step("RA, glibc keeps its memory", seconds[True], seconds[False], "glibc's default", place)]


def _memory_rows(folder: str, place: tuple[int, str, bool]) -> list[Row]:
    device = place[1]
    bare = peak_memory(bare_epoch, f"{folder}/bare", *place, device=device)
    engine, handlers = (
        peak_memory(engine_epoch, on, f"{folder}/memory", *place, device=device) for on in (False, True)
    )
    sivae = peak_memory(
        engine_epoch, False, f"{folder}/memory", *place, {"loss#lambda_emb": 0.0}, device=device
    )
    return [
        *memory_rows("engine without handlers", engine, bare, BARE),
        *memory_rows("engine with the bundle's handlers", handlers, bare, BARE),
        *memory_rows("step of RA", engine, sivae, "step of Soft-IntroVAE"),
    ]


def _per_step(
    case: str, ours: Sequence[float], peer: Sequence[float], name: str, place: tuple[int, str, bool]
) -> Row:
    return row(case, ours, peer, name, "ms/step", 1000 / (place[0] // 8))


if __name__ == "__main__":
    main()
