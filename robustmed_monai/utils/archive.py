"""Archives of tensors, as ``torch.save`` writes them: made plain, and read without running any code."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from robustmed_monai.utils.errors import WeightsError


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


def serialise(state_dict: Mapping[str, Any], path: Path) -> bytes:
    """Return the archive of weights: on the CPU, contiguous, each with its own memory and its plain name.

    Raises:
        WeightsError: when something is no finite, dense tensor; it names ``path``.
    """
    if not state_dict:
        raise WeightsError(f"{path}: there are no weights to save; give the state_dict of a network.")
    for name, tensor in state_dict.items():
        check_tensor(path, name, tensor)
    names = plain_names(list(state_dict), path)
    stored = {}
    for name, tensor in state_dict.items():
        plain = tensor.detach().as_subclass(torch.Tensor)
        # A view would drag the whole memory that it looks at into the file.
        stored[names[name]] = plain.to("cpu").clone(memory_format=torch.contiguous_format)
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    return buffer.getvalue()


def check_tensor(path: Path, name: Any, tensor: Any, limit: int | None = None) -> None:
    """Refuse what is no weight: anything but a named, dense, finite tensor of at most ``limit`` bytes.

    Raises:
        WeightsError: it names the file and the tensor.
    """
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


def plain_names(names: list[str], path: str | os.PathLike[str]) -> dict[str, str]:
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
