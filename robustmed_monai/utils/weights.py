"""Weights: one flat file of tensors, verified before it is read, and a JSON that says what they are.

``model.pt`` is an archive of ``torch.save``; ``model.json`` beside it is ``{"sha256": ..., "info": {...}}``.
The digest guards against damage: torch reads a flipped bit as a different weight without a word. Weights in a
bundle's ``models`` must also be those that its ``configs/metadata.json`` lists, with the digests of the file
and of its info. Nothing but tensors is ever unpickled.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustmed_monai.utils.archive import check_tensor, plain_names, read_archive, serialise
from robustmed_monai.utils.bundle import rank
from robustmed_monai.utils.eight_bits import restored
from robustmed_monai.utils.errors import DataError, WeightsError
from robustmed_monai.utils.files import atomic_path, read_file, read_json, sha256, write_json
from robustmed_monai.utils.weight_info import check_info, info_digest

logger = logging.getLogger(__name__)

MAX_BYTES = 4 << 30  # of a file of weights, or of a checkpoint
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
    data = serialise(state_dict, path)
    entry: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest(), "info": dict(info or {})}
    try:
        info_digest(entry["info"])
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: info is not JSON ({error}); give finite numbers, text and lists."
        ) from error
    try:
        previous = _present_entry(path)
        write_json(_sidecar(path), entry | previous)
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
    return str(entry["sha256"])


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
        Name to tensor, without the prefixes of wrappers; matrices that the file has in 8 bits (see
        ``utils.eight_bits``) are multiplied by their scales.

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
        check_tensor(path, name, tensor, limit=len(data))
    names = plain_names(list(content), path)
    return restored({names[name]: tensor for name, tensor in content.items()}, path)


def load_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the ``info`` that was saved with exactly the weights that are in the file now.

    Nothing is known, and it is empty, where no JSON lies beside them; loading them asks for
    ``allow_unverified`` then.

    Args:
        path: weights file (not the JSON beside it).

    Raises:
        WeightsError: when the file is missing or altered, or what its info says of `calibration`,
            `training_statistics` or `spacing` cannot be true.
    """
    info = _verified(Path(path), None, allow_unverified=True)[1]
    check_info(info, path)
    return info


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
    names = {plain: name for name, plain in plain_names(list(own), path).items()}
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


def log_weights(path: str | os.PathLike[str], bundle: str, inputs: str = "IMAGE") -> None:
    """Log where a training left its weights and the command that applies them, in the first process.

    Args:
        path: weights file.
        bundle: name of its bundle.
        inputs: how the command is told its images.
    """
    if rank() == 0:
        logger.info(f"weights: {path}; apply them: robustmed infer {bundle} {inputs} --weights {path}")


def verify_bundle_weights(bundle_root: str | os.PathLike[str]) -> dict[str, str]:
    """Verify all weights of a bundle against the digests that its metadata.json lists.

    Args:
        bundle_root: folder that holds ``models`` and ``configs/metadata.json`` with
            ``"weights": {"model.pt": {"sha256": "...", "info_sha256": "..."}}``; the second is the
            ``info_digest`` of the JSON beside the file, where there is one.

    Returns:
        File name to sha256 of all files, every one of them verified.

    Raises:
        WeightsError: when a file or its info is missing, altered, not listed, or listed otherwise in the JSON
            beside it.
    """
    models = Path(bundle_root) / "models"
    metadata = _metadata(models / "model.pt")
    listed = _listed(metadata)
    present = {p.name for p in models.glob("*") if p.suffix in WEIGHT_SUFFIXES}
    for name in sorted(present - set(listed)):
        raise WeightsError(
            f"{models / name}: is not listed in {metadata}; add its sha256 or remove the file."
        )
    for name, entry in listed.items():
        info = load_info(models / name)
        if info and "info_sha256" not in entry:
            raise WeightsError(
                f"{metadata}: weights '{name}' lack the digest of their info; add \"info_sha256\": "
                f'"{info_digest(info)}".'
            )
    return {name: entry["sha256"] for name, entry in listed.items()}


def _verified(path: Path, expected: str | None, allow_unverified: bool) -> tuple[bytes, dict[str, Any]]:
    """Read the file once; return its bytes, whose digest is a known one, and the information on them."""
    published = None if expected else _published(path)
    # A writer may exchange the pair between the two reads; its files agree again at the second look.
    for _ in range(2):
        data = _read(path)
        digest = hashlib.sha256(data).hexdigest()
        if expected:
            entries: list[dict[str, Any]] = [{"sha256": expected.lower(), "info": {}}]
        else:
            entries = _entries(path) or ([published | {"info": {}}] if published else [])
        for entry in entries:
            if entry["sha256"] == digest:
                _check_published(path, published, entry)
                return data, dict(entry["info"])
    if entries:
        wanted = " or ".join(entry["sha256"] for entry in entries)
        raise WeightsError(
            f"{path}: was altered: its sha256 is {digest}, expected is {wanted}. Fetch it again."
        )
    if not allow_unverified:
        raise WeightsError(
            f"{path}: nothing says what its sha256 should be; put {_sidecar(path).name} beside it, as "
            "robustmed_monai.utils.weights.save_weights does. If you trust where it comes from, allow it: "
            "allow_unverified=True in Python, --network#allow_unverified True for a bundle."
        )
    return data, {}


def _published(path: Path) -> dict[str, str] | None:
    """What the metadata of a bundle say of a file in its ``models``; None for any other file."""
    metadata = _metadata(path)
    if path.absolute().parent.name != "models" or not metadata.is_file():
        return None
    return _listed(metadata).get(path.name) if "weights" in _json(metadata) else None


def _check_published(path: Path, published: Mapping[str, str] | None, entry: Mapping[str, Any]) -> None:
    if published is None:
        return
    if published["sha256"] != entry["sha256"]:
        raise WeightsError(
            f"{path}: was altered: its sha256 is {entry['sha256']}, {_metadata(path)} has "
            f"{published['sha256']}. Fetch it again; keep weights of your own in another folder."
        )
    digest = info_digest(entry["info"])
    if entry["info"] and published.get("info_sha256", digest) != digest:
        raise WeightsError(
            f"{_sidecar(path)}: was altered: the digest of its info is {digest}, {_metadata(path)} has "
            f"{published['info_sha256']}. Fetch it again."
        )


def _read(path: Path) -> bytes:
    try:
        return read_file(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; train first, or fetch the bundle's weights.") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


def _metadata(path: Path) -> Path:
    return path.absolute().parents[1] / "configs" / "metadata.json"


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except DataError as error:
        raise WeightsError(str(error)) from error


def _entries(path: Path) -> list[dict[str, Any]]:
    """What the JSON beside the weights says of the present and the previous file; empty without one."""
    sidecar = _sidecar(path)
    if not sidecar.exists():
        return []
    content = _json(sidecar)
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


def _present_entry(path: Path) -> dict[str, Any]:
    """The entry of the file on disk as the JSON keeps it while the file is exchanged; empty where unknown."""
    try:
        entries = _entries(path) if path.is_file() else []
    except WeightsError:
        return {}
    digest = sha256(path) if entries else ""
    known = [{"sha256": e["sha256"], "info": e["info"]} for e in entries if e["sha256"] == digest]
    return {"previous": known[0]} if known else {}


def _listed(metadata: Path) -> dict[str, dict[str, str]]:
    """The weights that a bundle's metadata list, each with its digests."""
    content = _json(metadata)
    listed = content.get("weights") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise WeightsError(
            f'{metadata}: lists no weights; add "weights": {{"model.pt": {{"sha256": "..."}}}}.'
        )
    for name, entry in listed.items():
        digests = (
            [entry.get("sha256"), entry.get("info_sha256", "0" * 64)] if isinstance(entry, dict) else [0]
        )
        if Path(name).name != name or not all(map(_is_digest, digests)):
            raise WeightsError(
                f"{metadata}: weights '{name}' needs a bare file name and a sha256 of 64 digits."
            )
    return listed


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
