"""Laws of inference with the shipped weights: the same head on another grid has the same results.

The head is a virtual subject, brought to other grids by SciPy and nibabel. What is only laid out otherwise
(axes, flips, oblique affines, more or less air) must give the same; what is interpolated nearly the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from scipy import ndimage
from scipy.spatial.transform import Rotation

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.inferers.risc_files import class_report, correction_sheet
from robustmed_monai.inferers.segmentation import volume_report
from robustmed_monai.inferers.unoranic import restoration_report, restoration_sheet
from robustmed_monai.transforms import ScaleForeground, VolumeToSlices

Array = np.ndarray[Any, Any]
Volume = tuple[Array, Array]  # voxels and affine
BUNDLES = Path(__file__).parents[2] / "bundles"
# Every eighth slice of the middle of the brain: 12.6 to 70.2 mm above the origin.
LEVELS = slice(28, 48, 4)
ORIENTATIONS = ["".join(codes) for order in permutations(("RL", "AP", "SI")) for codes in product(*order)]
# Statistics of training would refuse a virtual head; the laws are about the maps.
WITHOUT_STATISTICS = {"ra": 0, "pchvae": 0, "unoranic": 0, "cifl_segmentation": 0}
Found = Callable[[str], dict[str, Any]]


def head() -> Volume:
    """A few axial slices of a virtual head, 1.8 mm within and 7.2 mm across, no noise in the air."""
    subject = virtual_subject(0, 0)
    affine = AFFINE @ np.diag([1.0, 1.0, 4.0, 1.0])
    affine[2, 3] += AFFINE[2, 2] * LEVELS.start
    voxels = 800 * subject.image[:, :, LEVELS]
    return np.where(voxels < 16, 0, voxels).astype(np.float32), affine


def on_voxels(volume: Volume, sizes: tuple[float | None, ...]) -> Volume:
    """The same field of view in voxels of other sizes (mm): splines to finer ones, means to coarser ones."""
    voxels, affine = volume
    old = np.linalg.norm(affine[:3, :3], axis=0)
    step = np.array([1.0 if size is None else size / o for size, o in zip(sizes, old, strict=True)])
    sigma = np.sqrt(np.maximum(step**2 - 1, 0) / 12)
    smooth = ndimage.gaussian_filter(voxels, sigma, mode="nearest")
    shape = np.floor((np.array(voxels.shape) - 1) / step + 1e-6).astype(int) + 1
    first = ((np.array(voxels.shape) - 1) - (shape - 1) * step) / 2
    made = ndimage.affine_transform(smooth, np.diag(step), first, tuple(shape), order=3, mode="constant")
    moved = np.diag([*step, 1.0])
    moved[:3, 3] = first
    return made.clip(0).astype(np.float32), affine @ moved


def with_air(volume: Volume, before: tuple[int, int, int], after: tuple[int, int, int]) -> Volume:
    """Air around, in voxels; negative numbers crop."""
    voxels, affine = volume
    kept = voxels[
        tuple(slice(max(-b, 0), n - max(-a, 0)) for b, a, n in zip(before, after, voxels.shape, strict=True))
    ]
    padded = np.pad(kept, [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)])
    moved = affine.copy()
    moved[:3, 3] = (affine @ [*(-b for b in before), 1])[:3]
    return padded, moved


def close_to_the_head(volume: Volume) -> Volume:
    inside = np.argwhere(volume[0].any(2))
    low, high = inside.min(0), volume[0].shape[:2] - inside.max(0) - 1
    return with_air(volume, (-low[0], -low[1], 0), (-high[0], -high[1], 0))


def noisy(volume: Volume) -> Volume:
    """Noise of 2 % of white where there is no signal: the magnitude of two channels, as scanners give it."""
    rng = np.random.default_rng(1)
    noise = np.hypot(*rng.normal(0, 0.02 * 700, (2, *volume[0].shape)))
    return np.where(volume[0] == 0, noise, volume[0]).astype(np.float32), volume[1]


def turned(volume: Volume, codes: str) -> Volume:
    image = nib.Nifti1Image(volume[0], volume[1])
    wanted = nib.orientations.axcodes2ornt(tuple(codes))
    turn = nib.orientations.ornt_transform(nib.orientations.io_orientation(volume[1]), wanted)
    made: Any = image.as_reoriented(turn)
    return np.asarray(made.dataobj), made.affine


def oblique(volume: Volume) -> Volume:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", (8, -12, 17), degrees=True).as_matrix()
    return volume[0], turn @ volume[1]


# The same voxels, laid out otherwise.
EXACT: dict[str, Callable[[Volume], Volume]] = {
    "wide": lambda v: with_air(v, (30, 9, 1), (3, 22, 2)),
    "close": close_to_the_head,
    "sagittal": lambda v: turned(v, "PSL"),
    "coronal": lambda v: turned(v, "IRA"),
    "oblique": oblique,
}
# Interpolated voxels of the same head.
NEAR: dict[str, Callable[[Volume], Volume]] = {
    "0.94 x 1.2 mm": lambda v: on_voxels(v, (0.94, 1.2, None)),
    "1.28 : 1": lambda v: on_voxels(v, (1.40625, None, None)),
}
NOISE: dict[str, Callable[[Volume], Volume]] = {"noise": lambda v: noisy(with_air(v, (20, 0, 0), (0, 20, 0)))}


class _Keep:
    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: self.outputs.append(e.state.output))


def infer(
    bundle: str, items: list[dict[str, str]], statistics: bool = False, errors: bool = False, **overrides: Any
) -> list[dict[str, Any]]:
    """Outputs of the shipped config and weights, one per item; nothing is written."""
    kept = _Keep()
    parser = ConfigParser()
    parser.read_config(BUNDLES / bundle / "configs" / "inference.json")
    if bundle in WITHOUT_STATISTICS and not statistics:
        parser[f"postprocessing#transforms#{WITHOUT_STATISTICS[bundle]}#statistics"] = None
    parser.update(
        {
            "bundle_root": str(BUNDLES / bundle), "device": "cpu", "files": items, "dataset#data": items,
            "handlers": [kept], **overrides,
        }
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser.get_parsed_content("evaluator").run()
    assert errors or [output.get("error") for output in kept.outputs] == [None] * len(items)
    return kept.outputs


def written(volumes: Mapping[str, Volume], folder: Path) -> list[dict[str, str]]:
    items = []
    for name, (voxels, affine) in volumes.items():
        path = folder / f"{name.replace(' ', '_').replace(':', 'to')}.nii.gz"
        nib.save(nib.Nifti1Image(voxels, affine), path)
        items.append({"image": str(path)})
    return items


def slice_values(bundle: str, output: Mapping[str, Any]) -> Array:
    """The score of each slice: RA's mean anomaly map, pchVAE's negative bound, unORANIC's change."""
    if bundle == "ra":
        values = output["network_space"]["anomaly_map"].as_subclass(torch.Tensor).mean((0, 1, 2))
    else:
        values = output["score_elbo" if bundle == "pchvae" else "change"].as_subclass(torch.Tensor)
    found: Array = values[list(output["ood_reasons"])].numpy()
    return found


def dice(first: Array, second: Array) -> float:
    """Mean over the classes of labels on one grid."""
    found = []
    for k in range(1, 4):
        one, two = first == k, second == k
        found.append(2 * (one & two).sum() / (one.sum() + two.sum()))
    return float(np.mean(found))


def on_grid(output: Mapping[str, Any], maps: Array, volume: Volume) -> Array:
    """Maps (C, X, Y, Z) on the grid of an output's image, by its affine, on the grid of a volume."""
    to = np.linalg.inv(np.asarray(output["pred"].affine)) @ volume[1]
    shape = volume[0].shape
    settings: dict[str, Any] = {"output_shape": shape, "order": 1, "mode": "nearest"}
    return np.stack([ndimage.affine_transform(m, to[:3, :3], to[:3, 3], **settings) for m in maps])


def labels_on_grid(output: Mapping[str, Any], volume: Volume) -> Array:
    labels = output["pred"].as_subclass(torch.Tensor)[0].numpy()
    shares = on_grid(output, np.stack([(labels == k).astype(np.float32) for k in range(4)]), volume)
    return np.asarray(shares.argmax(0))


@pytest.fixture(scope="module")
def base() -> Volume:
    return head()


@pytest.fixture(scope="module")
def found(base: Volume, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """`found(bundle)`: outputs by name of the variant, made once."""
    done: dict[str, dict[str, Any]] = {}
    volumes = {"base": base, **{name: make(base) for name, make in {**EXACT, **NEAR, **NOISE}.items()}}

    def outputs(bundle: str) -> dict[str, Any]:
        if bundle not in done:
            items = written(volumes, tmp_path_factory.mktemp(bundle))
            done[bundle] = dict(zip(volumes, infer(bundle, items), strict=True))
        return done[bundle]

    return outputs


@pytest.mark.parametrize("bundle", ["ra", "pchvae"])
@pytest.mark.parametrize("name", [*EXACT, *NEAR, *NOISE])
def test_scores_are_those_of_the_same_head(bundle: str, name: str, found: Found) -> None:
    outputs = found(bundle)
    expected, values = (slice_values(bundle, outputs[key]) for key in ("base", name))
    assert len(values) == len(expected) == 5
    assert values.mean() == pytest.approx(expected.mean(), rel=1e-3 if name in EXACT else 0.05)
    # Single slices of RA feel what interpolation blurs.
    np.testing.assert_allclose(values, expected, rtol=2e-3 if name in EXACT else 0.15)


@pytest.mark.parametrize("name", ["close", "sagittal", "coronal", "oblique"])
def test_unoranic_restores_the_same_head(name: str, found: Found) -> None:
    # Its weights come from pictures without millimetres: they take the whole field of view, so that air
    # around counts, and warn (`test_what_is_no_head_comes_with_a_warning_or_an_error`).
    outputs = found("unoranic")
    expected, values = (slice_values("unoranic", outputs[key]) for key in ("base", name))
    np.testing.assert_allclose(values, expected, rtol=1e-3)


@pytest.mark.parametrize("name", [*EXACT, *NEAR, *NOISE])
def test_labels_are_those_of_the_same_head(name: str, base: Volume, found: Found) -> None:
    outputs = found("cifl_segmentation")
    # A turned head is compared where it lies.
    grid = oblique(base) if name == "oblique" else base
    expected = outputs["base"]["pred"].as_subclass(torch.Tensor)[0].numpy()
    agreement = dice(labels_on_grid(outputs[name], grid), expected)
    assert agreement > (0.999 if name in EXACT else 0.95), "mean Dice of three tissues"
    volumes, before = (volume_report(outputs[key])["volumes"] for key in (name, "base"))
    for tissue in ("CSF", "grey matter", "white matter"):
        assert volumes[tissue]["ml"] == pytest.approx(
            before[tissue]["ml"], rel=1e-3 if name in EXACT else 0.05
        )


@pytest.mark.parametrize("name", [*EXACT, *NEAR, *NOISE])
def test_features_are_those_of_the_same_head(name: str, base: Volume, found: Found) -> None:
    outputs = found("cifl")
    grid = oblique(base) if name == "oblique" else base
    inside = ndimage.binary_erosion(base[0] > 80, np.ones((5, 5, 1)))
    features = on_grid(outputs[name], outputs[name]["pred"].as_subclass(torch.Tensor).numpy(), grid)
    expected = outputs["base"]["pred"].as_subclass(torch.Tensor).numpy()
    similar = [np.corrcoef(a[inside], b[inside])[0, 1] for a, b in zip(features, expected, strict=True)]
    assert np.mean(similar) > (0.999 if name in EXACT else 0.9)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_all_orientations_give_the_same_slices(codes: str, base: Volume) -> None:
    small = base[0][::4, ::4], base[1] @ np.diag([4.0, 4.0, 1.0, 1.0])
    expected, slices = (_cut(volume) for volume in (small, turned(small, codes)))
    torch.testing.assert_close(slices, expected, atol=1e-5, rtol=0)


def _cut(volume: Volume) -> torch.Tensor:
    image = MetaTensor(torch.from_numpy(volume[0].copy())[None], affine=torch.from_numpy(volume[1]))
    return VolumeToSlices(32, 7.0)(ScaleForeground()(image)).as_tensor()


@pytest.mark.parametrize("bundle", ["ra", "cifl_segmentation"])
def test_a_slice_is_a_volume_of_one_slice(bundle: str, base: Volume, tmp_path: Path) -> None:
    flat = base[0][..., 2]
    items = written({"flat": (flat, base[1]), "thin": (flat[..., None], base[1])}, tmp_path)
    first, second = infer(bundle, items)
    key = "anomaly_map" if bundle == "ra" else "pred"
    one, two = (output[key].as_subclass(torch.Tensor) for output in (first, second))
    torch.testing.assert_close(one.reshape(two.shape), two)
    assert two.any()


@pytest.mark.parametrize("every", [2, 3])
def test_other_slices_do_not_matter(every: int, base: Volume, found: Found, tmp_path: Path) -> None:
    fewer = base[0][..., ::every], base[1] @ np.diag([1.0, 1.0, float(every), 1.0])
    (output,) = infer("ra", written({"fewer": fewer}, tmp_path))
    expected = slice_values("ra", found("ra")["base"])[::every]
    np.testing.assert_allclose(slice_values("ra", output), expected, rtol=0.05)


def _phantom(name: str) -> Volume:
    rng = np.random.default_rng(0)
    x, y, _ = np.indices((64, 64, 5))
    ball = 500.0 * (np.hypot(x - 32, y - 32) < 24)
    voxels = {"ball": ball, "noise": rng.uniform(0, 100, ball.shape), "empty": 0 * ball}[name]
    return voxels.astype(np.float32), np.diag([3.5, 3.5, 7.0, 1.0])


@pytest.mark.parametrize("name", ["ball", "noise", "empty"])
@pytest.mark.parametrize("bundle", ["ra", "pchvae", "cifl_segmentation", "unoranic", "risc"])
def test_what_is_no_head_comes_with_a_warning_or_an_error(bundle: str, name: str, tmp_path: Path) -> None:
    (output,) = infer(bundle, written({name: _phantom(name)}, tmp_path), statistics=True, errors=True)
    assert output.get("error") or output["warnings"]


@pytest.mark.parametrize("name", ["ball", "noise", "empty"])
def test_what_is_no_head_has_no_volume_in_ml(name: str, tmp_path: Path) -> None:
    (output,) = infer("cifl_segmentation", written({name: _phantom(name)}, tmp_path), statistics=True)
    assert {volume["ml"] for volume in volume_report(output)["volumes"].values()} == {None}


def test_unoranic_gives_a_head_no_score(base: Volume, tmp_path: Path) -> None:
    (output,) = infer("unoranic", written({"head": base}, tmp_path), statistics=True)
    report = restoration_report(output)
    assert (report["assessed"], report["corruption_score"], report["change"]) == (0, None, None)
    assert {slice_["change"] for slice_ in report["slices"]} == {None}
    # Nothing is drawn in the place of the head, and the sheet shows the head alone.
    assert not {"pred", "full"} & set(output)
    sheet = restoration_sheet(output)
    assert sheet is not None
    assert len([axis for axis in sheet.axes if axis.images]) == 5
    assert "assessed 0 of 5 slices" in " ".join(text.get_text() for text in sheet.texts)


def test_risc_gives_a_head_no_class(base: Volume, tmp_path: Path) -> None:
    (output,) = infer("risc", written({"head": base}, tmp_path))
    report = class_report(output, ["normal", "pneumonia"])
    said = ("prediction", "probabilities", "angle", "confidence", "abstained", "angles")
    assert [report[key] for key in said] == [None] * 6
    assert output["warnings"][0].startswith("assessed 0 of 5 slices")
    # Neither a heat map nor a turned image is written, and the sheet shows the images alone.
    assert not {"heatmap", "corrected"} & set(output)
    sheet = correction_sheet(output, ["layer2", "layer3"])
    assert sheet is not None
    assert [len(axis.images) for axis in sheet.axes] == [1] * 5
    assert "assessed 0 of 5 slices" in " ".join(text.get_text() for text in sheet.texts)
    asked = {"postprocessing#transforms#0#refuse": False}
    (output,) = infer("risc", written({"head": base}, tmp_path), **asked)
    assert class_report(output, ["normal", "pneumonia"])["prediction"] in ("normal", "pneumonia")


def test_no_label_lies_in_the_air(base: Volume, found: Found) -> None:
    air = ~ndimage.binary_dilation(base[0] > 16, np.ones((7, 7, 1)))
    labels = found("cifl_segmentation")["base"]["pred"].as_subclass(torch.Tensor)[0].numpy()
    assert not labels[air].any()


@pytest.mark.parametrize("name", ["wide", "coronal", "0.94 x 1.2 mm"])
def test_registration_moves_by_the_same_millimetres(name: str, base: Volume, tmp_path: Path) -> None:
    moving = np.roll(base[0], (3, -2), (0, 1)), base[1]
    make = {**EXACT, **NEAR}[name]
    volumes = {"fixed": base, "moving": moving, "fixed2": make(base), "moving2": make(moving)}
    paths = [item["image"] for item in written(volumes, tmp_path)]
    items = [{"image": m, "moving": m, "fixed": f} for f, m in (paths[:2], paths[2:])]
    first, second = infer("cifl_registration", items)
    inside = base[0] > 80
    lengths = [np.linalg.norm(first["field"], axis=0)[inside].mean()]
    other = volumes["fixed2"][0] > 80
    lengths.append(np.linalg.norm(second["field"], axis=0)[other].mean())
    assert lengths[0] > 1.0, "something is moved"
    assert lengths[1] == pytest.approx(lengths[0], rel=0.01 if name in EXACT else 0.05)


@pytest.fixture(scope="module")
def slab() -> Volume:
    """29 mm of a head in voxels of 1.8 mm."""
    affine = AFFINE.copy()
    affine[2, 3] += AFFINE[2, 2] * 30
    voxels = 800 * virtual_subject(0, 0).image[:, :, 30:46]
    return np.where(voxels < 16, 0, voxels).astype(np.float32), affine


THICK: dict[str, Callable[[Volume], Volume]] = {
    "2 mm": lambda v: on_voxels(v, (None, None, 2.0)),
    "4 mm": lambda v: on_voxels(v, (None, None, 4.0)),
    "sagittal, 5.4 mm": lambda v: turned(on_voxels(v, (5.4, None, None)), "PSR"),
}
# Sagittal slices, thrice as thick as the network's pixels, have lost what it scores: a warning says so.
THICK_TOLERANCE = {"ra": 0.07, "pchvae": 0.2, "cifl_segmentation": 0.2}


@pytest.mark.slow
@pytest.mark.parametrize("bundle", THICK_TOLERANCE)
def test_thick_slices(bundle: str, slab: Volume, tmp_path: Path) -> None:
    volumes = {"base": slab, **{name: make(slab) for name, make in THICK.items()}}
    outputs = dict(zip(volumes, infer(bundle, written(volumes, tmp_path)), strict=True))
    for name in THICK:
        coarse = [text for text in outputs[name]["warnings"] if "times as large" in text]
        assert bool(coarse) == name.startswith("sagittal")
        tolerance = THICK_TOLERANCE[bundle] if name.startswith("sagittal") else 0.06
        if bundle != "cifl_segmentation":
            expected, value = (slice_values(bundle, outputs[key]).mean() for key in ("base", name))
            assert value == pytest.approx(expected, rel=tolerance), name
            continue
        before, volume = (volume_report(outputs[key])["volumes"] for key in ("base", name))
        for tissue in ("CSF", "grey matter", "white matter"):
            assert volume[tissue]["ml"] == pytest.approx(before[tissue]["ml"], rel=tolerance), (name, tissue)
