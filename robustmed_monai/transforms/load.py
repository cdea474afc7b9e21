"""The checked reader: every image file of the package is read here, whole, or refused with a reason."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.transforms.utility.array import EnsureChannelFirst
from monai.utils import ImageMetaKey

from robustmed_monai.transforms.image_checks import (
    DEFLATE_RATIO,
    MAX_VOXELS,
    NONFINITE_POLICIES,
    Array,
    GeometryWarning,
    OnNonfinite,
    check_finite,
    check_shape,
    finite_mask,
)
from robustmed_monai.transforms.image_readers.dicom import is_dicom, read_dicom, slice_files
from robustmed_monai.transforms.image_readers.itk import read_itk
from robustmed_monai.transforms.image_readers.mgh import read_mgh
from robustmed_monai.transforms.image_readers.nifti import read_nifti
from robustmed_monai.transforms.image_readers.picture import PICTURE_SUFFIXES, read_picture, read_stack
from robustmed_monai.utils.errors import (
    ConfigError,
    CorruptImageError,
    ImageError,
    ImageShapeError,
    NonFiniteImageError,
)

__all__ = ["GeometryWarning", "LoadCheckedImage", "LoadCheckedImaged", "read_npz_arrays"]

PathLike: TypeAlias = str | os.PathLike[str]
Reader: TypeAlias = Callable[[Path, int], tuple[Array, dict[str, Any]]]

_READERS: dict[str, Reader] = {
    ".nii.gz": read_nifti,
    ".nii": read_nifti,
    ".mgz": read_mgh,
    ".mgh": read_mgh,
    ".nrrd": read_itk,
    ".mha": read_itk,
    **dict.fromkeys(PICTURE_SUFFIXES, read_picture),
}
PAIRS = (".mhd", ".nhdr", ".hdr", ".img")
_GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


class LoadCheckedImage(Transform):
    """Load one image file as a channel-first float32 ``MetaTensor``, or refuse it with a reason.

    Does what ``monai.transforms.LoadImage`` does (same axes, same values, same meta data) for NIfTI, PNG,
    TIFF, JPEG, NRRD, MHA, MGH/MGZ, single DICOM files and folders that hold one DICOM series. Pages of a TIFF
    and folders of pictures are volumes; a NIfTI of two dimensions is a volume one voxel thick. Pictures lie
    as viewers show them.

    Beyond it, the checksums of gzip, zlib and PNG are verified, headers are checked before anything is
    allocated, the affine of the file is kept as it is (the sform first; a qform or pixdim that disagrees
    gives a ``GeometryWarning``), and NaN or infinite voxels meet a policy. Damage that leaves no trace cannot
    be seen: uncompressed NIfTI, JPEG and TIFF carry no checksum.

    Where the type of file says which value is white, it is ``meta["max_value"]``: 1, 255, 4095, 65535 for
    pictures and X-rays. Volumes and measured values (signed, 32 bits, floats beyond [0, 1]) lack the key.

    Args:
        on_nonfinite: what to do with NaN, infinite or beyond-float32 voxels: ``"raise"``; ``"replace"`` sets
            them to 0 (their number is ``meta["nonfinite_count"]``); ``"mask"`` does the same and also returns
            where the image is finite. An image without any finite voxel is always refused.
        ensure_channel_first: add or move the channel axis to the front; False keeps the axes of the file.
        channels: expected number of channels; 1 also reduces a three-channel picture to the mean of its
            channels (the exact grey value when it is grey kept as RGB). None: as in the file. Needs
            ``ensure_channel_first``.
        spatial_dims: expected number of spatial dimensions, or those that are taken; None: 2 or 3.
        max_voxels: larger images are refused before their voxels are unpacked; the default takes 4 GiB.

    Raises:
        ConfigError: for an unknown policy.

    Example:
        >>> LoadCheckedImage()("scan.nii.gz")
        Traceback (most recent call last):
        robustmed_monai.utils.errors.CorruptImageError: scan.nii.gz: no such file; check the path.
    """

    def __init__(
        self,
        on_nonfinite: OnNonfinite = "raise",
        ensure_channel_first: bool = True,
        channels: int | None = None,
        spatial_dims: int | Sequence[int] | None = None,
        max_voxels: int = MAX_VOXELS,
    ) -> None:
        if on_nonfinite not in NONFINITE_POLICIES:
            raise ConfigError(
                f"on_nonfinite is {on_nonfinite!r}; choose one of {', '.join(NONFINITE_POLICIES)}."
            )
        if channels is not None and not ensure_channel_first:
            raise ConfigError(f"channels={channels} needs ensure_channel_first=True; drop one of the two.")
        self.on_nonfinite = on_nonfinite
        self.ensure_channel_first = ensure_channel_first
        self.channels = channels
        self.spatial_dims = spatial_dims
        self.max_voxels = max_voxels

    def __call__(self, filename: PathLike) -> Any:
        """Load the image.

        Args:
            filename: a file, or the folder of a DICOM series or of a stack of pictures.

        Returns:
            ``MetaTensor`` (C, X, Y[, Z]) float32 with the affine and the source's meta data; with
            ``on_nonfinite="mask"`` a pair of it and of a ``MetaTensor`` of the same shape, 1 where it is
            finite.

        Raises:
            ImageError: a subclass names the file, the reason and what to do.
        """
        try:
            return self._load(filename)
        except MemoryError as error:
            raise ImageShapeError(
                f"{filename}: the memory does not suffice for this image; give the process more, or "
                "crop the image."
            ) from error

    def _load(self, filename: PathLike) -> Any:
        voxels, meta = _read(filename, self.max_voxels)
        finite = finite_mask(voxels)
        if finite is not None:
            if self.on_nonfinite == "raise":
                check_finite(voxels, filename)
            if not finite.any():
                raise NonFiniteImageError(
                    f"{filename}: no voxel is finite; get the file again from its source."
                )
            voxels = np.where(finite, voxels, np.float32(0))
        meta["nonfinite_count"] = 0 if finite is None else int((~finite).sum())
        image = self._finish(voxels, meta, filename)
        if self.on_nonfinite != "mask":
            return image
        mask = np.ones_like(voxels) if finite is None else finite.astype(np.float32)
        # A grey value made of three channels is finite where all three are.
        return image, (self._finish(mask, meta, filename) == 1).to(torch.float32)

    def _finish(self, voxels: Array, meta: dict[str, Any], filename: PathLike) -> Any:
        writable = np.require(voxels, requirements=("C", "W"))
        image = MetaTensor.ensure_torch_and_prune_meta(writable, dict(meta))
        # Channels are checked even where the axes stay as they are.
        first = EnsureChannelFirst()(image, meta_dict=meta)
        if self.channels == 1 and first.shape[0] == 3 and first.ndim == 3:
            first = first.mean(dim=0, keepdim=True)
        check_shape(first.shape, filename, self.spatial_dims, self.channels)
        return first.contiguous() if self.ensure_channel_first else image


class LoadCheckedImaged(MapTransform):
    """Dictionary version of :class:`LoadCheckedImage`: replaces the path under each key by the image.

    Args:
        keys: keys that hold paths.
        on_nonfinite: see :class:`LoadCheckedImage`; ``"mask"`` stores the finite places under
            ``<key>_finite``.
        ensure_channel_first: see :class:`LoadCheckedImage`.
        channels: see :class:`LoadCheckedImage`.
        spatial_dims: see :class:`LoadCheckedImage`.
        max_voxels: see :class:`LoadCheckedImage`.
        allow_missing_keys: do not raise when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        on_nonfinite: OnNonfinite = "raise",
        ensure_channel_first: bool = True,
        channels: int | None = None,
        spatial_dims: int | Sequence[int] | None = None,
        max_voxels: int = MAX_VOXELS,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.loader = LoadCheckedImage(on_nonfinite, ensure_channel_first, channels, spatial_dims, max_voxels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images in place of their paths."""
        result = dict(data)
        for key in self.key_iterator(result):
            loaded = self.loader(result[key])
            if self.loader.on_nonfinite == "mask":
                loaded, result[f"{key}_finite"] = loaded
            result[key] = loaded
        return result


def read_npz_arrays(path: PathLike, names: Sequence[str] | None = None) -> dict[str, Array]:
    """Read arrays of an ``.npz`` file as stored, after verifying the checksum of each.

    Args:
        path: the ``.npz`` file.
        names: arrays to read; None: all.

    Returns:
        Arrays by name, with the axes of the file: pictures kept as (rows, columns) have to be transposed.

    Raises:
        CorruptImageError: the file is missing, damaged, holds Python objects or lacks a name.
    """
    file = _check_file(path)
    try:
        with zipfile.ZipFile(file) as archive:
            stored = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = list(stored) if names is None else list(names)
            missing = [name for name in wanted if name not in stored]
            if missing:
                raise CorruptImageError(
                    f"{path}: no array {missing[0]!r}; it holds {', '.join(stored) or 'nothing'}."
                )
            return {name: _read_npy(archive, stored[name], path) for name in wanted}
    except ImageError:
        raise
    except Exception as error:
        raise _corrupt(path, error) from error


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: PathLike) -> Array:
    if info.file_size > info.compress_size * DEFLATE_RATIO + 1024:
        raise CorruptImageError(
            f"{path}: {info.filename} claims {info.file_size} bytes, more than it can hold."
        )
    # Reading a member to its end is what verifies its checksum; numpy stops at the last value.
    content = archive.read(info)
    stream = io.BytesIO(content)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    if stream.read(1):
        raise CorruptImageError(
            f"{path}: {info.filename} holds more bytes than its shape {array.shape} tells."
        )
    return array


def _read(filename: PathLike, max_voxels: int) -> tuple[Array, dict[str, Any]]:
    """Return voxels (float32, axes of the file) and meta data of any accepted file."""
    path, reader = _choose_reader(filename)
    try:
        voxels, meta = reader(path, max_voxels)
        with np.errstate(over="ignore", invalid="ignore"):
            voxels = voxels.astype(np.float32, copy=False)
    except (ImageError, GeometryWarning, MemoryError):
        raise
    # Whatever a library throws at a damaged file leaves as one family.
    except Exception as error:
        raise _corrupt(filename, error) from error
    meta[ImageMetaKey.FILENAME_OR_OBJ] = str(path)
    return voxels, meta


def _choose_reader(filename: PathLike) -> tuple[Path, Reader]:
    if not isinstance(filename, str | os.PathLike):
        raise ImageShapeError(
            f"expected the path of one image file, got {type(filename).__name__}; pass a single path."
        )
    path = Path(filename).expanduser()
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return path, read_stack if _is_stack(path) else read_dicom
    except (OSError, ValueError):
        pass
    name = path.name.lower()
    _check_file(path)
    for suffix, reader in _READERS.items():
        if name.endswith(suffix):
            return path, reader
    if is_dicom(path):
        return path, read_dicom
    advice = "save header and voxels as one .mha or .nii file" if name.endswith(PAIRS) else "convert it"
    raise CorruptImageError(
        f"{filename}: not an image type that is read here ({', '.join(_READERS)}, DICOM); {advice}."
    )


def _is_stack(folder: Path) -> bool:
    files = slice_files(folder)
    return bool(files) and all(path.suffix.lower() in PICTURE_SUFFIXES for path in files)


def _check_file(filename: PathLike) -> Path:
    try:
        status = os.stat(filename)
    except FileNotFoundError as error:
        raise CorruptImageError(f"{filename}: no such file; check the path.") from error
    except (OSError, ValueError) as error:
        raise CorruptImageError(f"{filename}: cannot be opened ({error}); check the path.") from error
    if not stat.S_ISREG(status.st_mode):
        raise CorruptImageError(f"{filename}: not a regular file; name an image file.")
    if status.st_size == 0:
        raise CorruptImageError(f"{filename}: the file is empty; get it again from its source.")
    return Path(filename)


def _corrupt(filename: PathLike, error: Exception) -> CorruptImageError:
    if isinstance(error, _GZIP_ERRORS):
        return CorruptImageError(
            f"{filename}: the compressed data are damaged or cut off ({error}); get the file again."
        )
    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return CorruptImageError(
        f"{filename}: cannot be read as the type its name says ({reason}); check it or get the file again."
    )
