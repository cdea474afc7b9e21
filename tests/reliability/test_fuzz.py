"""Property-based fuzz of the reader, of names and options on the command line, and of JSON files.

Whatever hypothesis makes up is read as an independent library reads it, or refused by an error of ours. The
counts stand at the end of pytest's output; `silent` (another result without a word), `foreign` (an error of
somebody else) and `hangs` are 0.
"""

from __future__ import annotations

import ast
import gzip
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from robustmed_monai import cli
from robustmed_monai.data.image_list import list_images
from robustmed_monai.transforms.load import GeometryWarning, LoadCheckedImage
from robustmed_monai.utils.bundle import BUNDLES_VARIABLE
from robustmed_monai.utils.errors import RobustMedError
from robustmed_monai.utils.weight_info import check_info

pytestmark = pytest.mark.slow

Written = tuple[bytes, NDArray[Any], NDArray[Any] | None]  # content, voxels (axes of MONAI), affine
SECONDS = 10  # of one example; more is a hang
InTime = Callable[[int], AbstractContextManager[None]]
Ran = Callable[[list[str]], list[str] | None]
CONFIG = {
    "imports": ["$from pathlib import Path", "$import os"],
    "input": None,
    "threshold": 1,
    "output_dir": "out",
    "initialize": [{"_target_": "robustmed_monai.utils.bundle.check_overrides"}],
    "run": ["$Path('read').write_bytes(os.fsencode('\\0'.join([@input, @output_dir, repr(@threshold)])))"],
}


def fuzz(examples: int) -> settings:
    """The same examples in every run, and as long as they need."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture
def counts(
    record_property: Callable[[str, object], None], request: pytest.FixtureRequest
) -> Iterator[Counter[str]]:
    """What became of the examples; any error of somebody else, wrong result or hang fails the test itself."""
    found: Counter[str] = Counter()
    yield found
    assert not found["refused without the name"]
    total = sum(found.values())
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.items()))
    record_property("fuzz", f"{request.node.name}: {total} examples, {kinds}; 0 silent, 0 foreign, 0 hangs")


# -- images ------------------------------------------------------------------------------------------------

_SIDE = st.integers(1, 7)
_SEED = st.integers(0, 2**32 - 1)
_DTYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


def _voxels(seed: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 6)).astype(kind)
    # Beyond 2 ** 24 float32 has no whole numbers.
    low, high = max(np.iinfo(kind).min, -(2**24)), min(np.iinfo(kind).max, 2**24)
    return rng.integers(low, high, shape, endpoint=True).astype(kind)


@st.composite
def affines(draw: st.DrawFn) -> NDArray[Any]:
    rng = np.random.default_rng(draw(_SEED))
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * rng.uniform(0.3, 5, 3)
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    return affine


@st.composite
def niftis(draw: st.DrawFn) -> Written:
    shape = draw(
        st.tuples(_SIDE, _SIDE) | st.tuples(_SIDE, _SIDE, _SIDE) | st.tuples(_SIDE, _SIDE, _SIDE, _SIDE)
    )
    dtype = draw(st.sampled_from(_DTYPES))
    kind: Any = draw(st.sampled_from((nib.Nifti1Image, nib.Nifti2Image)))
    header = kind.header_class(endianness=draw(st.sampled_from("<>")))
    voxels, affine = _voxels(draw(_SEED), shape, dtype), draw(affines())
    image = kind(voxels, None, header, dtype=voxels.dtype)
    codes = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    image.set_sform(affine, code=codes[0])
    image.set_qform(affine, code=codes[1])
    slope, inter = draw(st.sampled_from(((np.nan, np.nan), (1, 0), (0.5, -3), (-2, 7))))
    image.header.set_slope_inter(slope, inter)
    content = image.to_bytes()
    read = kind.from_bytes(content)
    wanted = read.get_fdata().astype(np.float32)
    # Channels come first; two dimensions are a volume one voxel thick.
    wanted = np.moveaxis(wanted, -1, 0) if wanted.ndim == 4 else wanted.reshape(1, *(*shape, 1)[:3])
    compressed = draw(st.booleans())
    return gzip.compress(content, 1) if compressed else content, wanted, read.affine


@st.composite
def pictures(draw: st.DrawFn) -> Written:
    mode, dtype = draw(st.sampled_from((("L", "u1"), ("I;16", "u2"), ("RGB", "u1"), ("1", "?"))))
    shape = draw(st.tuples(_SIDE, _SIDE))
    rng = np.random.default_rng(draw(_SEED))
    stored = rng.integers(
        0, 2 if dtype == "?" else np.iinfo(dtype).max, (*shape, *[3] * (mode == "RGB")), endpoint=dtype != "?"
    ).astype(dtype)
    path = Path("picture.png")
    Image.fromarray(stored).save(path)
    wanted = stored.astype(np.float32)
    return path.read_bytes(), wanted.transpose(2, 1, 0) if mode == "RGB" else wanted.T[None], None


@st.composite
def itk_images(draw: st.DrawFn) -> Written:
    import SimpleITK

    shape = draw(st.tuples(_SIDE, _SIDE, _SIDE))
    voxels, affine = _voxels(draw(_SEED), shape, draw(st.sampled_from(_DTYPES))), draw(affines())
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    flip = np.diag([-1.0, -1, 1])  # ITK's axes are left, posterior, superior
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing(sizes.tolist())
    image.SetDirection((flip @ affine[:3, :3] / sizes).ravel().tolist())
    image.SetOrigin((flip @ affine[:3, 3]).tolist())
    path = "image.nrrd"
    SimpleITK.WriteImage(image, path, draw(st.booleans()))
    return Path(path).read_bytes(), voxels.astype(np.float32)[None], affine


@st.composite
def mghs(draw: st.DrawFn) -> Written:
    shape = draw(st.tuples(_SIDE, _SIDE, _SIDE))
    voxels, affine = (
        _voxels(draw(_SEED), shape, draw(st.sampled_from(("u1", "i2", "i4", "f4")))),
        draw(affines()),
    )
    image = nib.MGHImage(voxels, affine)
    content = image.to_bytes()
    return content, voxels.astype(np.float32)[None], nib.MGHImage.from_bytes(content).affine


KINDS: dict[str, tuple[Callable[[], st.SearchStrategy[Written]], bool]] = {
    # name of the file, how it is made, and whether its type has a checksum over all voxels
    "a.nii": (niftis, False),
    "a.png": (pictures, True),
    "a.nrrd": (itk_images, False),
    "a.mgh": (mghs, False),
}


def _named(name: str, content: bytes) -> Path:
    path = Path(name + ".gz" if content[:2] == b"\x1f\x8b" else name)
    path.write_bytes(content)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", KINDS)
def test_images_are_read_as_others_read_them(
    name: str, here: Path, counts: Counter[str], in_time: InTime
) -> None:
    @fuzz(250)
    @given(KINDS[name][0]())
    def check(written: Written) -> None:
        content, wanted, affine = written
        with in_time(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore", GeometryWarning)
            try:
                image = LoadCheckedImage()(_named(name, content))
            except RobustMedError:
                counts["refused"] += 1
                return
        assert image.shape == wanted.shape, "silent: another shape"
        np.testing.assert_allclose(image.numpy(), wanted, rtol=1e-6, err_msg="silent: other values")
        if affine is not None:
            np.testing.assert_allclose(image.affine, affine, atol=1e-4, err_msg="silent: another place")
        counts["equal"] += 1

    check()
    assert counts["equal"] > 200, "sound files are read"


_HOW = st.sampled_from(("set", "insert", "cut"))
_EDITS = st.lists(
    st.tuples(_HOW, st.floats(0, 1), st.booleans(), st.binary(min_size=1, max_size=8)), min_size=1, max_size=5
)


def _edited(content: bytes, edits: list[tuple[str, float, bool, bytes]]) -> bytes:
    """The content with a few bytes set, inserted or cut, in the first 400 bytes or anywhere."""
    buffer = bytearray(content)
    for how, share, early, data in edits:
        place = int(share * (min(len(buffer), 400) if early else len(buffer)))
        if how == "set":
            buffer[place : place + len(data)] = data
        elif how == "insert":
            buffer[place:place] = data
        else:
            del buffer[place : place + len(data) ** 2]
    return bytes(buffer)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_images_are_refused_or_read(
    name: str, here: Path, counts: Counter[str], in_time: InTime
) -> None:
    @fuzz(400)
    @given(KINDS[name][0](), _EDITS)
    def check(written: Written, edits: list[tuple[str, float, bool, bytes]]) -> None:
        content, wanted, _ = written
        checked = KINDS[name][1] or content[:2] == b"\x1f\x8b"
        path = _named(name, content)
        path.write_bytes(_edited(content, edits))
        with in_time(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore", GeometryWarning)
            try:
                image = LoadCheckedImage()(path)
            except RobustMedError as error:
                counts["refused" if path.name in str(error) else "refused without the name"] += 1
                return
        same = image.shape == wanted.shape and np.allclose(image.numpy(), wanted, rtol=1e-6)
        assert same or not checked, "silent: a checksum was not looked at"
        counts["read as before" if same else "read, without a checksum"] += 1

    check()


# -- the command line --------------------------------------------------------------------------------------

_CODE = "$__import__('os').mkdir('canary')"
_WORDS = "# @ % $ [ ] { } ( ) , - = ~ ü ' \" \\ * ? & :: 1e5 True None -- .nii 0x1 2024 @input %input"
_SPECIAL = st.sampled_from([*_WORDS.split(), " ", "\n", _CODE])
_TEXTS = st.lists(_SPECIAL | st.text(max_size=5), min_size=1, max_size=4).map("".join)
_NAMES = (_TEXTS | st.binary(min_size=1, max_size=12).map(os.fsdecode)).filter(
    lambda name: not set("/\0") & set(name) and _encodes(name)
)


def _encodes(name: str) -> bool:
    try:
        return len(os.fsencode(name)) < 200
    except UnicodeEncodeError:
        return False


@pytest.fixture
def ran(here: Path, monkeypatch: pytest.MonkeyPatch, in_time: InTime) -> Ran:
    """`ran(words)`: what the config of a bundle got from `robustmed infer`; None where that was refused."""
    configs = here / "bundles" / "tiny" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text('{"version": "0.1.0"}')
    (configs / "inference.json").write_text(json.dumps(CONFIG))
    monkeypatch.setenv(BUNDLES_VARIABLE, str(here / "bundles"))

    def run(words: list[str]) -> list[str] | None:
        Path("read").unlink(missing_ok=True)
        with in_time(SECONDS):
            try:
                status = cli.main(["infer", "tiny", *words])
            except SystemExit as stop:  # argparse's own refusal or help
                status = int(stop.code or 0)
        assert not Path("canary").exists(), "silent: a name was run as code"
        if not Path("read").exists():
            return None
        assert status == 0
        return os.fsdecode(Path("read").read_bytes()).split("\0")

    return run


def _literal(text: str) -> Any:
    """What Python or JSON reads; the text itself where it is neither."""
    if text in ("true", "false", "null"):
        return json.loads(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return list(value) if isinstance(value, tuple) else value


def test_names_on_the_command_line_mean_themselves(ran: Ran, counts: Counter[str]) -> None:
    @fuzz(300)
    @given(_NAMES, _NAMES)
    def check(name: str, folder: str) -> None:
        found = ran([name, f"--output_dir={folder}"])
        if found is None:
            counts["refused"] += 1
            return
        assert found[:2] == [os.path.abspath(name), os.path.abspath(folder)], "silent: another name"
        counts["as written"] += 1

    check()
    assert counts["as written"] > 200


def test_values_on_the_command_line_mean_themselves(ran: Ran, counts: Counter[str]) -> None:
    @fuzz(300)
    @given(
        st.text("abcxyz", min_size=1, max_size=8)
        | _TEXTS
        | st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())).map(repr)
    )
    def check(text: str) -> None:
        found = ran(["image", f"--threshold={text}"])
        if found is None:
            counts["refused"] += 1
            return
        assert found[2] == repr(_literal(text)), "silent: another value"
        counts["as written"] += 1

    check()
    assert counts["as written"] > 100


def test_any_words_end_in_a_run_or_a_refusal(ran: Ran, counts: Counter[str]) -> None:
    @fuzz(200)
    @given(
        st.lists(
            _TEXTS | st.sampled_from(("--fpr", "--input", "--threshold", "a=b", "--processes=1")), max_size=4
        )
    )
    def check(words: list[str]) -> None:
        counts["refused" if ran(words) is None else "run"] += 1

    check()


# -- JSON --------------------------------------------------------------------------------------------------

_KEYS = st.sampled_from(("training", "test", "image", "thresholds", "mean", "std", "0.05", "x"))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


def test_any_json_is_a_datalist_or_refused(here: Path, counts: Counter[str], in_time: InTime) -> None:
    items = st.lists(
        st.fixed_dictionaries({"image": st.text(max_size=9)}) | st.text(max_size=9) | _JSON, max_size=3
    )
    sections = st.sampled_from(("training", "validation", "test", "x"))
    listed = st.dictionaries(sections, items, min_size=1)
    # Hypothesis draws by what is imported, too: without these, chance decides how many can be read.
    names = st.text("ab.gniz_- ", min_size=1, max_size=9).map("a{}".format)
    sound = st.dictionaries(sections, st.lists(names, min_size=1, max_size=3), min_size=1)

    @fuzz(500)
    @given(st.one_of(sound, listed, _JSON).map(json.dumps).map(str.encode) | st.binary(max_size=40))
    def check(content: bytes) -> None:
        Path("list.json").write_bytes(content)
        with in_time(SECONDS):
            try:
                found = list_images("list.json")
            except RobustMedError as error:
                counts["refused" if "list.json" in str(error) else "refused without the name"] += 1
                return
        assert all(os.path.isabs(item["image"]) for item in found), "silent"
        counts["read"] += 1

    check()
    assert counts["read"] > 50


def test_any_info_of_weights_is_sound_or_refused(counts: Counter[str], in_time: InTime) -> None:
    numbers = st.dictionaries(
        st.sampled_from(("0.01", "0.05", "0.1", "x")), st.floats() | st.integers() | st.just(10**400)
    )
    known = st.fixed_dictionaries(
        {},
        optional={
            "calibration": _JSON | numbers.map(lambda found: {"thresholds": found}),
            "training_statistics": _JSON | st.dictionaries(st.text(max_size=3), numbers),
            "spacing": _JSON,
        },
    )

    @fuzz(500)
    @given(known)
    def check(info: dict[str, Any]) -> None:
        with in_time(SECONDS):
            try:
                check_info(info, "model.pt")
            except RobustMedError as error:
                counts["refused" if "model.pt: info '" in str(error) else "refused without the name"] += 1
                return
        if info.get("calibration") is not None:
            thresholds = info["calibration"]["thresholds"]
            assert all(0 < float(rate) < 1 for rate in thresholds), "silent"
            assert all(abs(value) < float("inf") for value in thresholds.values()), "silent"
        counts["taken"] += 1

    check()
