"""Training pairs from nothing, beside cornucopia, TorchIO, neurite and VoxelMorph: CPU time per pair.

    python benchmarks/bench_label_shapes.py [--rounds 25] [--device cpu] [--peers folder]

A pair is a map of 16 labels, one smooth deformation of it, and two images of it with contrasts of their own.
Time is that of the processor, so that other work on the machine counts little; one thread. cornucopia (MIT)
and TorchIO (Apache-2.0; it makes images of label maps, and no maps) are taken from the folder ``--peers``
and put there by pip where it lacks them; ``--quick`` installs nothing and leaves them out. With a GPU as
``--device`` only ours is measured: wall time of a pair of 128^3.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.timing import Row, Work, interleaved, log, options, row, save
from robustmed_monai.data.synthetic_views import SyntheticViews
from robustmed_monai.transforms.synthesis import LabelShapes, LabelsToImage
from robustmed_monai.utils.provenance import CHECKOUT

PEERS = CHECKOUT / "out/benchmark_peers"
TORCHIO = (
    "torchio==2.0.0a2", "einops==0.8.1", "jaxtyping==0.3.11", "wadler-lindig==0.1.8", "loguru==0.7.3",
    "humanize==4.17.0", "tyro==1.0.17", "docstring-parser==0.18.0", "typeguard==4.6.1",
    "torch-interpol==0.3.0", "torch-distmap==0.3.0",
)  # fmt: skip
CORNUCOPIA = ("cornucopia==0.5.1", "torch-interpol==0.3.0", "torch-distmap==0.3.0")
LABELS = 16
BATCHED = "TorchIO 2.0.0a2"
NEW, POOL = "new shapes", "shapes from a pool"

Size = tuple[int, ...]
View = Callable[[Tensor], Tensor]


def ours(size: Size, batch_size: int, device: str = "cpu") -> dict[str, Work]:
    """Pairs by the batch, with maps made anew and from the default pool, which is refreshed as it goes on."""
    works: dict[str, Work] = {}
    for case, pool in ((NEW, 0), (POOL, 40)):
        views, numbers = SyntheticViews(size, batch_size, 1, label_map_cache=pool, device=device), count()
        works[case] = partial(_next_batch, views, numbers)
        if pool:
            # A training fills the pool once.
            for _ in range(2 * pool // batch_size):
                works[case]()
    return works


def _next_batch(views: SyntheticViews, numbers: Iterator[int]) -> dict[str, Tensor]:
    return views.batch(next(numbers))


def _works(labels: Callable[[], Tensor], move: View, view: View) -> dict[str, Work]:
    """Pairs one at a time, with maps made anew, and from ready ones that cost nothing."""
    ready, turn = [labels() for _ in range(4)], count()

    def pair(lab: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lab = move(lab)
        return lab, view(lab), view(lab)

    return {NEW: lambda: pair(labels()), POOL: lambda: pair(ready[next(turn) % len(ready)])}


def neurite_works(size: Size) -> dict[str, Work]:
    """What functions of neurite and voxelmorph 0.3.4 can be composed to; they have no generator."""
    import neurite as ne
    import voxelmorph as vxm

    def draw(low: float, high: float) -> float:
        return float(torch.empty(()).uniform_(low, high))

    def labels() -> Tensor:
        how = {"method": "upsample", "standardize": False, "non_spatial_dims": (0,)}
        shape = (LABELS, *size)
        noise = ne.fractal_noise(shape, scales=[32, 64], weights=[1, 1], **how)
        moves = vxm.random_disp(shape, scales=[16, 32, 64], magnitude=draw(0, 16), non_spatial_dims=(0,))
        warped = vxm.spatial_transform(noise[:, None], moves, non_spatial_dims=(0, 1))
        found: Tensor = warped[:, 0].argmax(0, keepdim=True)
        return found

    def move(lab: Tensor) -> Tensor:
        moves = vxm.random_disp(size, scales=[8, 16, 32], magnitude=draw(0, 3), integrations=5)
        moved: Tensor = vxm.spatial_transform(lab, moves, mode="nearest", non_spatial_dims=(0,))
        return moved

    def view(lab: Tensor) -> Tensor:
        image = ne.sample_image_from_labels(lab, mean_range=(0.1, 0.9), noise_std=draw(0.02, 0.1))
        image = ne.gaussian_smoothing(image, sigma=max(draw(0, 1), 1e-3), non_spatial_dims=(0,))
        bias = ne.fractal_noise(
            (1, *size), scales=[40], magnitude=draw(0, 0.3), non_spatial_dims=(0,), method="upsample"
        )
        image = (image * bias.exp()).clamp_(0, 1)
        image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-8)
        result: Tensor = image ** (0.25 * torch.randn(())).exp()
        return result

    return _works(labels, move, view)


def _install(folder: Path, name: str, packages: Sequence[str]) -> None:
    """Put packages into a folder of their own, unless they are there, and let them be imported."""
    target = folder.resolve() / name
    if not target.exists():
        # Without their dependencies: torch is that of this process.
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        subprocess.run([*command, *packages], check=True)
    if str(target) not in sys.path:
        sys.path.append(str(target))


def torchio_works(size: Size, batch_size: int, folder: Path) -> dict[str, Work]:
    """TorchIO 2.0.0a2: batches, each image with its own parameters, of ready maps; it makes none."""
    _install(folder, "torchio", TORCHIO)
    import torchio as tio  # type: ignore[import-not-found]

    # A picture is a volume one voxel thick, which is not moved along its third axis.
    flat = len(size) == 2
    points = (7, 7, 5) if flat else 7
    reach = (3.0, 3.0, 0.0) if flat else 3.0
    move = tio.ElasticDeformation(num_control_points=points, max_displacement=reach)
    view = tio.Compose([
        tio.LabelsToImage(label_key="label", image_key="image", default_std=(0.02, 0.1)),
        tio.Blur(std=(0.0, 1.0)), tio.BiasField(std=(0.0, 0.3)),
        tio.Normalize(out_min=0.0), tio.Gamma(log_gamma=(-0.25, 0.25)),
    ])  # fmt: skip
    shapes = LabelShapes(LABELS)
    maps = shapes.apply(shapes.sample(batch_size, size, torch.Generator().manual_seed(0)), size)
    subjects = [tio.Subject(label=tio.LabelMap(lab[..., None] if flat else lab)) for lab in maps]
    ready = tio.SubjectsBatch.from_subjects(subjects)

    def pairs() -> tuple[Any, Any]:
        moved = move(ready)
        return view(moved), view(moved)

    return {POOL: pairs}


def cornucopia_works(size: Size, reduced: bool, folder: Path) -> dict[str, Work]:
    """Cornucopia 0.5.1 with its defaults, or ``reduced``: linear splines, and fewer artefacts than ours."""
    _install(folder, "cornucopia", CORNUCOPIA)
    import cornucopia as cc  # type: ignore[import-not-found]

    order = 1 if reduced else 3
    blank = torch.zeros(1, *size)
    shapes = cc.SmoothLabelMap(nb_classes=LABELS, shape=[max(2, side // 32) for side in size])
    elastic = cc.RandomAffineElasticTransform(
        0.05, 10, steps=0, order=order, rotations=15, zooms=0.15, shears=0.012, translations=0.1,
        nearest_if_label=True,
    )  # fmt: skip
    mixture = cc.RandomGaussianMixtureTransform(fwhm=0 if reduced else 10)
    options_ = {"resolution": False, "gfactor": False} if reduced else {}
    intensity = cc.IntensityTransform(order=order, **options_)
    return _works(lambda: shapes(blank), elastic, lambda lab: intensity(mixture(lab)))


def factory(size: Size, num_labels: int) -> dict[str, Any]:
    """Ours in the form that the project's side-by-side script takes, with maps made anew."""
    batch_size = 8 if len(size) == 2 else 2
    shapes, to_image, generator = LabelShapes(num_labels), LabelsToImage(), torch.Generator().manual_seed(0)
    views = SyntheticViews(size, batch_size, 1, num_labels=num_labels, label_map_cache=0)
    numbers = count()
    return {
        "batch": batch_size,
        "labels": lambda: shapes.apply(shapes.sample(batch_size, size, generator), size),
        "view": lambda lab: to_image.apply(lab, to_image.sample(len(lab), num_labels, size, generator)),
        "pair": partial(_next_batch, views, numbers),
    }


@torch.no_grad()
def cpu_seconds(works: Mapping[str, Work], rounds: int, least: float) -> dict[str, list[float]]:
    """CPU seconds per call: the works take turns, and a turn is as many calls as take ``least`` seconds."""
    calls: dict[str, int] = {}
    for name, work in works.items():
        log.info("warm-up: %s", name)
        start = time.process_time()
        work()
        # cornucopia's splines are compiled again and again in the first calls.
        while time.process_time() - start < (25 * least if "cornucopia" in name else least):
            work()
        start = time.process_time()
        work()
        calls[name] = max(1, round(least / max(time.process_time() - start, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        log.info("round %d of %d", turn + 1, rounds)
        for name in list(works)[:: -1 if turn % 2 else 1]:
            start = time.process_time()
            for _ in range(calls[name]):
                works[name]()
            seconds[name].append((time.process_time() - start) / calls[name])
    return seconds


def size_rows(chosen: Any, size: Size, batch_size: int) -> list[Row]:
    """Rows of one image size."""
    peers = {"neurite and voxelmorph 0.3.4": neurite_works(size)}
    if not chosen.quick:
        peers["cornucopia 0.5.1"] = cornucopia_works(size, False, chosen.peers)
        peers["cornucopia 0.5.1, reduced"] = cornucopia_works(size, True, chosen.peers)
        peers[BATCHED] = torchio_works(size, batch_size, chosen.peers)
    sides = {"ours": ours(size, batch_size), **peers}
    works = {f"{side}, {case}": work for side, cases in sides.items() for case, work in cases.items()}
    seconds = cpu_seconds(works, chosen.rounds, 0.0 if chosen.quick else 0.2)
    rows = []
    for case in (NEW, POOL):
        mine = [value / batch_size for value in seconds[f"ours, {case}"]]
        label = f"{'x'.join(map(str, size))}, {case}"
        log.info("%s: %.1f images per CPU-second", label, 2 / statistics.median(mine))
        for peer in (name for name, cases in peers.items() if case in cases):
            pairs = batch_size if peer == BATCHED else 1
            theirs = [value / pairs for value in seconds[f"{peer}, {case}"]]
            rows.append(row(label, mine, theirs, peer, "CPU ms/pair"))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file."""
    chosen = options("label_shapes", __doc__, 25, arguments, PEERS)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if chosen.device != "cpu":
        works = {f"128x128x128, {case}": work for case, work in ours((128,) * 3, 1, chosen.device).items()}
        for case, seconds in interleaved(works, chosen.rounds, chosen.device).items():
            log.info("%s on %s: %.1f ms per pair", case, chosen.device, 1000 * statistics.median(seconds))
        return
    sizes: list[tuple[Size, int]] = [((192, 160), 8), ((96, 96, 96), 2)]
    if chosen.quick:
        sizes = [((64, 64), 2)]
    rows = [row for size, batch_size in sizes for row in size_rows(chosen, size, batch_size)]
    save(chosen, rows, seeds=[0], target={"2-D": 3.0, "3-D": 5.0})


if __name__ == "__main__":
    main()
