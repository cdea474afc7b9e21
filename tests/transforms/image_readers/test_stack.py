from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustmed_monai.transforms.image_checks import GeometryWarning
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.volume_slices import VolumeToSlices
from robustmed_monai.utils.errors import ImageShapeError

load = LoadCheckedImage(channels=1)


@pytest.fixture
def pages(rng: np.random.Generator) -> list[Image.Image]:
    return [Image.fromarray(rng.integers(0, 60000, (7, 9)).astype(np.uint16)) for _ in range(11)]


def test_a_folder_of_pictures_is_a_volume_in_the_order_of_numbers(
    tmp_path: Path, pages: list[Image.Image]
) -> None:
    for number, page in enumerate(pages):
        page.save(tmp_path / f"slice{number}.{'png' if number % 2 else 'tif'}")
    (tmp_path / "notes.txt").write_text("passed over")
    with pytest.warns(GeometryWarning, match="pictures carry no geometry; 1 mm voxels with the axes R, P, S"):
        volume = load(tmp_path)
    expected = np.stack([np.asarray(page).T for page in pages], -1)
    assert np.array_equal(volume[0].numpy(), expected)
    # A slice of the stack is shown as the picture is.
    assert np.array_equal(VolumeToSlices()(volume)[0, :, 1:-1, 2], expected[..., 2])


def test_pages_of_a_tiff_are_the_same_volume(tmp_path: Path, pages: list[Image.Image]) -> None:
    (tmp_path / "pages").mkdir()
    for number, page in enumerate(pages):
        page.save(tmp_path / "pages" / f"{number}.tif")
    pages[0].save(tmp_path / "all.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(GeometryWarning):
        one, two = load(tmp_path / "pages"), load(tmp_path / "all.tif")
    assert np.array_equal(one.numpy(), two.numpy())
    assert np.array_equal(one.affine.numpy(), np.diag([1, -1, 1, 1]))


def test_grey_kept_as_colour_is_grey(tmp_path: Path) -> None:
    for number in range(2):
        Image.new("RGB", (4, 3), (number, number, number)).save(tmp_path / f"{number}.png")
    with pytest.warns(GeometryWarning):
        assert load(tmp_path).shape == (1, 4, 3, 2)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (
            Image.new("L", (5, 3)),
            r"pictures of \[\(4, 3\), \(5, 3\)\] pixels in one stack; give them one size",
        ),
        (Image.new("RGB", (4, 3), (1, 2, 3)), "b.png: colours or pages in a stack, expected grey pictures"),
    ],
)
def test_refusals(tmp_path: Path, picture: Image.Image, message: str) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    picture.save(tmp_path / "b.png")
    with pytest.raises(ImageShapeError, match=message):
        load(tmp_path)
