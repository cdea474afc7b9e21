"""Weights: one flat file of tensors, verified before it is read, and a JSON that says what they are.

``model.pt`` is an archive of ``torch.save``; ``model.json`` beside it is ``{"sha256": ..., "info": {...}}``.
The digest guards against damage: torch reads a flipped bit as a different weight without a word. Against
malice stand the refusal to unpickle anything but tensors and the digest in the bundle's ``metadata.json``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustmed_monai.utils.errors import DataError, WeightsError
from robustmed_monai.utils.files import atomic_path, read_json, sha256, write_json

WEIGHT_SUFFIXES = (".pt", ".pth", ".pt2", ".ts", ".onnx", ".safetensors")


def save_weights(
    state_dict: Mapping[str, Any], path: str | os.PathLike[str], info: Mapping[str, Any] | None = None
) -> str:
    """Write weights and what is known about them as a pair of files that a crash cannot tear apart.

    Tensors are stored on the CPU, contiguous and each with its own memory; the prefixes that
    ``torch.compile`` and ``DistributedDataParallel`` put before names are removed. While the weights are
    exchanged the JSON holds the digests of the new and of the previous file, so that whichever is there loads
    with its own ``info``.

    Args:
        state_dict: name to tensor, as ``network.state_dict()`` gives it; all values finite.
        path: file to write, such as ``models/model.pt``; the JSON takes the same name with ``.json``.
        info: provenance, thresholds, training data: anything that JSON can hold.

    Returns:
        The sha256 of the weights file. The same weights give the same digest.

    Raises:
        WeightsError: when something is no finite tensor, ``info`` is not JSON, or the files cannot be
            written. The previous pair is then untouched.
    """
    path = Path(path)
    data = _serialise(state_dict, path)
    digest = hashlib.sha256(data).hexdigest()
    entry = {"sha256": digest, "info": dict(info or {})}
    try:
        json.dumps(entry, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: info is not JSON ({error}); give finite numbers, text and lists."
        ) from error
    try:
        previous = _entry_of_file(path)
        write_json(_sidecar(path), entry | ({"previous": previous} if previous else {}))
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be written ({error.strerror or error}); the previous weights are untouched. "
            "Free space or choose another folder."
        ) from error
    if previous:
        # Mere tidying: the pair is complete, and the entry of the previous file does no harm.
        with suppress(OSError):
            write_json(_sidecar(path), entry)
    return digest


def load_weights(
    path: str | os.PathLike[str],
    expected_sha256: str | None = None,
    map_location: str | torch.device = "cpu",
    allow_unverified: bool = False,
) -> dict[str, torch.Tensor]:
    """Read weights after their sha256 has been verified; nothing but tensors is ever unpickled.

    Args:
        path: weights file, such as ``models/model.pt``.
        expected_sha256: 64 hexadecimal digits; None takes the digest from the JSON beside the file.
        map_location: device of the tensors.
        allow_unverified: read a file for which no digest is known. One that does not match is always refused.

    Returns:
        Name to tensor, without the prefixes of wrappers.

    Raises:
        WeightsError: when the file is missing, altered or holds anything but finite tensors, or when no
            digest is known.
    """
    path = Path(path)
    data, _ = _verified(path, expected_sha256, allow_unverified)
    content = read_archive(data, path, map_location)
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            f"{path}: holds a {type(content).__name__}, not named tensors; export weights alone."
        )
    for name, tensor in content.items():
        _check_tensor(path, name, tensor, limit=len(data))
    names = _plain_names(list(content), path)
    return {names[name]: tensor for name, tensor in content.items()}


def load_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the ``info`` that was saved with exactly the weights that are in the file now.

    Args:
        path: weights file (not the JSON beside it).

    Raises:
        WeightsError: as ``load_weights`` does.
    """
    return _verified(Path(path), None, allow_unverified=False)[1]


def load_into(
    network: nn.Module,
    path: str | os.PathLike[str],
    expected_sha256: str | None = None,
    allow_unverified: bool = False,
) -> nn.Module:
    """Load verified weights into a network, wrapped or not, and return the network.

    Args:
        network: module whose names and shapes must be exactly those of the file.
        path: weights file.
        expected_sha256: see ``load_weights``.
        allow_unverified: see ``load_weights``.

    Raises:
        WeightsError: as ``load_weights``, and when names or shapes differ; the network is then unchanged.
    """
    weights = load_weights(path, expected_sha256, allow_unverified=allow_unverified)
    own = network.state_dict()
    names = {plain: name for name, plain in _plain_names(list(own), path).items()}
    shapes = {k: tuple(own[name].shape) for k, name in names.items()}
    faults = {
        "missing": [k for k in names if k not in weights],
        "unexpected": [k for k in weights if k not in names],
        "of another shape": [
            f"{k} {tuple(v.shape)} instead of {shapes[k]}"
            for k, v in weights.items()
            if k in names and v.shape != shapes[k]
        ],
    }
    found = "; ".join(f"{len(v)} {kind}: {_shortened(v)}" for kind, v in faults.items() if v)
    if found:
        raise WeightsError(
            f"{path}: does not fit {type(network).__name__}: {found}. "
            "Build the network with the settings that the weights were trained with."
        )
    network.load_state_dict({names[k]: v for k, v in weights.items()})
    return network


def verify_bundle_weights(bundle_root: str | os.PathLike[str]) -> dict[str, str]:
    """Verify all weights of a bundle against the digests that its metadata.json lists.

    Args:
        bundle_root: folder that holds ``models`` and ``configs/metadata.json`` with
            ``"weights": {"model.pt": {"sha256": "..."}}``.

    Returns:
        File name to sha256 of all files, every one of them verified.

    Raises:
        WeightsError: when a file is missing, altered, not listed, or listed otherwise in the JSON beside it.
    """
    metadata, models = Path(bundle_root) / "configs" / "metadata.json", Path(bundle_root) / "models"
    listed = _digests(metadata)
    present = {p.name for p in models.glob("*") if p.suffix in WEIGHT_SUFFIXES}
    for name in sorted(present - set(listed)):
        raise WeightsError(
            f"{models / name}: is not listed in {metadata}; add its sha256 or remove the file."
        )
    for name, digest in listed.items():
        _verified(models / name, digest, allow_unverified=False)
        if _sidecar(models / name).exists():
            load_info(models / name)
    return listed


def read_archive(data: bytes, path: str | os.PathLike[str], map_location: str | torch.device = "cpu") -> Any:
    """Deserialise what ``torch.save`` wrote, refusing damage, code and compression.

    Args:
        data: the whole file.
        path: its name, for messages.
        map_location: device of the tensors.

    Returns:
        Tensors, numbers and text in dictionaries and lists.

    Raises:
        WeightsError: when it is anything else, or the checksum of a part is wrong.
    """
    advice = "It is damaged or not a weights file: fetch or export it again."
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            compressed = any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())
            # Reading a part that is not compressed takes no more memory than the file; a zip bomb would.
            damaged = None if compressed else archive.testzip()
    # RuntimeError is zipfile's answer to a part that is encrypted or compressed in a way it does not know.
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, RuntimeError) as error:
        raise WeightsError(f"{path}: is no intact torch archive ({error}). {advice}") from error
    if compressed:
        raise WeightsError(f"{path}: has compressed parts, which torch.save never writes. {advice}")
    if damaged:
        raise WeightsError(f"{path}: the checksum of its part {damaged} is wrong. {advice}")
    try:
        return torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except Exception as error:
        # Torch's own text goes on to explain how to switch the protection off.
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it asks to run {code[1]}" if code else type(error).__name__
        raise WeightsError(
            f"{path}: holds more than tensors and was not read ({reason}). {advice}"
        ) from error


def _serialise(state_dict: Mapping[str, Any], path: Path) -> bytes:
    if not state_dict:
        raise WeightsError(f"{path}: there are no weights to save; give the state_dict of a network.")
    for name, tensor in state_dict.items():
        _check_tensor(path, name, tensor)
    names = _plain_names(list(state_dict), path)
    stored = {}
    for name, tensor in state_dict.items():
        plain = tensor.detach().as_subclass(torch.Tensor)
        # A view would drag the whole memory that it looks at into the file.
        stored[names[name]] = plain.to("cpu").clone(memory_format=torch.contiguous_format)
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    return buffer.getvalue()


def _check_tensor(path: Path, name: Any, tensor: Any, limit: int | None = None) -> None:
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        raise WeightsError(
            f"{path}: {name!r} is a {type(tensor).__name__}, but weights are names and tensors only; "
            "export network.state_dict() alone."
        )
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise WeightsError(f"{path}: '{name}' is not a dense tensor; export dense weights.")
    if limit is not None and tensor.numel() * tensor.element_size() > limit:
        raise WeightsError(
            f"{path}: '{name}' claims the shape {tuple(tensor.shape)}, more than the file has; fetch it."
        )
    if not torch.isfinite(tensor).all():
        raise WeightsError(
            f"{path}: '{name}' has NaN or infinite values; use weights of an earlier, sound epoch."
        )


def _plain_names(names: list[str], path: str | os.PathLike[str]) -> dict[str, str]:
    """Map names to names without the prefixes of wrappers.

    A submodule may well be called ``module``: that is a wrapper only where every name begins with it.
    """
    plain = {name: re.sub(r"(^|\.)(_orig_mod\.)+", r"\1", name) for name in names}
    while plain and all(value.startswith("module.") for value in plain.values()):
        plain = {name: value.removeprefix("module.") for name, value in plain.items()}
    if len(set(plain.values())) < len(plain):
        raise WeightsError(
            f"{path}: two names differ only by the prefix of a wrapper; export the plain network."
        )
    return plain


def _verified(path: Path, expected: str | None, allow_unverified: bool) -> tuple[bytes, dict[str, Any]]:
    """Read the file once; return its bytes, whose digest is a known one, and the information on them."""
    # A writer may exchange the pair between the two reads; its files agree again at the second look.
    for _ in range(2):
        data = _read(path)
        digest = hashlib.sha256(data).hexdigest()
        entries: list[dict[str, Any]] = (
            [{"sha256": expected.lower(), "info": {}}] if expected else _entries(path)
        )
        for entry in entries:
            if entry["sha256"] == digest:
                return data, dict(entry["info"])
    if entries:
        wanted = " or ".join(entry["sha256"] for entry in entries)
        raise WeightsError(
            f"{path}: was altered: its sha256 is {digest}, expected is {wanted}. Fetch it again."
        )
    if not allow_unverified:
        raise WeightsError(
            f"{path}: nothing says what its sha256 should be; put {_sidecar(path).name} beside it, give "
            "expected_sha256, or allow_unverified=True if you trust where it comes from."
        )
    return data, {}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; train first, or fetch the bundle's weights.") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


def _entries(path: Path) -> list[dict[str, Any]]:
    """What the JSON beside the weights says of the present and the previous file; empty without one."""
    sidecar = _sidecar(path)
    if not sidecar.exists():
        return []
    try:
        content = read_json(sidecar)
    except DataError as error:
        raise WeightsError(str(error)) from error
    entries = [content]
    if isinstance(content, dict) and "previous" in content:
        entries.append(content["previous"])
    for entry in entries:
        known = isinstance(entry, dict) and isinstance(entry.get("info"), dict)
        if not known or not _is_digest(entry.get("sha256")):
            raise WeightsError(
                f"{sidecar}: lacks sha256 or info of {path.name}; fetch or export the pair again."
            )
    return entries


def _entry_of_file(path: Path) -> dict[str, Any] | None:
    """The entry that describes the file on disk, if both are there and intact."""
    try:
        entries = _entries(path) if path.exists() else []
    except WeightsError:
        return None
    digest = sha256(path) if entries else ""
    matching = [{"sha256": e["sha256"], "info": e["info"]} for e in entries if e["sha256"] == digest]
    return matching[0] if matching else None


def _digests(metadata: Path) -> dict[str, str]:
    try:
        content = read_json(metadata)
    except DataError as error:
        raise WeightsError(str(error)) from error
    listed = content.get("weights") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise WeightsError(
            f'{metadata}: lists no weights; add "weights": {{"model.pt": {{"sha256": "..."}}}}.'
        )
    digests = {}
    for name, entry in listed.items():
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if Path(name).name != name or not _is_digest(digest):
            raise WeightsError(
                f"{metadata}: weights '{name}' needs a bare file name and a sha256 of 64 digits."
            )
        digests[name] = str(digest)
    return digests


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
