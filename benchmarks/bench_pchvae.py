"""Training of pchVAE beside the four models that it is compared with, and a volume from file to files.

    python benchmarks/bench_pchvae.py [--rounds 9] [--device cpu] [--output results.json]

A row per model: a training step of pchVAE against one of that model, per image, batches of 16 slices of 64
pixels. The paper says of pchVAE's second pass only that it is 'additional overhead': the row without the zero
term shows it. The last row is a 155-slice volume of 240 x 240 pixels through ``inference.json``, read, scored
and written, against the time that issue 5 asks for (10 s on two cores); threads as the machine has them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.timing import Row, Work, interleaved, options, row, save
from robustmed_monai.losses.pchvae import HierarchicalLoss, QuantizedLoss
from robustmed_monai.networks.pchvae import chvae, high_vae, low_vae, pchvae
from robustmed_monai.networks.vqvae2 import VQVAE2
from robustmed_monai.utils.weights import save_weights

INFERENCE = Path(__file__).resolve().parents[1] / "bundles/pchvae/configs/inference.json"
BATCH, SIZE = 16, 64
ALLOWED = 10.0
MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "pchVAE": (pchvae, HierarchicalLoss()),
    "pchVAE without the zero term": (pchvae, HierarchicalLoss(zero_term=False)),
    "chVAE": (chvae, HierarchicalLoss()),
    "High VAE": (high_vae, HierarchicalLoss()),
    "Low VAE": (low_vae, HierarchicalLoss()),
    "VQVAE-2": (lambda: VQVAE2(channels=192, residual_channels=48), QuantizedLoss()),
}


def training_step(network: nn.Module, loss: Any, count: int, device: str) -> Work:
    """A step of Adam on one batch, as MultiOptimizerTrainer takes it."""
    network.to(device).to(memory_format=torch.channels_last).train()
    parts = dict(network.named_children())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(count, 1, SIZE, SIZE, generator=generator).clamp(-1.5, 1.5).to(device)
    image = image.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(parts, {"image": image}, generator)["loss"].backward()
        optimizer.step()

    return step


def volume_work(folder: Path, depth: int) -> Work:
    """A volume with a head in it, through the bundle's inference, by weights of the default size."""
    x, y, z = np.ogrid[:240, :240, :depth]
    middle = depth / 2
    inside = ((x - 120) / 80) ** 2 + ((y - 120) / 95) ** 2 + ((z - middle) / middle) ** 2 < 1
    noise = np.random.default_rng(0).uniform(300, 500, inside.shape)
    nib.save(nib.Nifti1Image(np.where(inside, noise, 0).astype(np.int16), np.eye(4)), folder / "head.nii.gz")
    save_weights(pchvae().state_dict(), folder / "model.pt")

    def infer() -> None:
        # A result that is there already would be kept.
        shutil.rmtree(folder / "out", ignore_errors=True)
        workflow = ConfigWorkflow(
            str(INFERENCE),
            logging_file=False,
            workflow_type="infer",
            input=str(folder / "head.nii.gz"),
            weights=str(folder / "model.pt"),
            output_dir=str(folder / "out"),
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    return infer


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file."""
    chosen = options("pchvae", __doc__, 9, arguments)
    torch.manual_seed(0)
    count = 2 if chosen.quick else BATCH
    works = {
        name: training_step(build(), loss, count, str(chosen.device))
        for name, (build, loss) in MODELS.items()
    }
    seconds = interleaved(works, chosen.rounds, chosen.device)
    rows: list[Row] = [
        row("training step, per image", seconds["pchVAE"], seconds[name], name, "ms", 1000.0 / count)
        for name in works
        if name != "pchVAE"
    ]
    with tempfile.TemporaryDirectory() as folder:
        work = {"ours": volume_work(Path(folder), 8 if chosen.quick else 155)}
        took = interleaved(work, min(chosen.rounds, 3), chosen.device)["ours"]
    rows.append(row("155-slice volume, file to files", took, [ALLOWED] * len(took), "allowed", "s", 1.0))
    save(chosen, rows, seeds=[0])


if __name__ == "__main__":
    main()
