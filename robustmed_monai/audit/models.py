"""Files of weights: the instructions of their pickles are listed, nothing is unpickled."""

from __future__ import annotations

import io
import pickletools
import re
import struct
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any

from robustmed_monai.audit.names import judge_name
from robustmed_monai.audit.verdicts import Opinion, Verdict, dangerous, safe, unknown

_LARGEST = 64_000_000  # bytes of one pickle: tensors lie beside it
_RATIO = 200  # unpacked to packed, beyond which an archive is a bomb
_CALLS = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BUILD")
# What torch itself writes into its archives.
_TENSORS = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v2|parameter|device_tensor_from_numpy)|torch\.\w*Storage"
    r"|torch\.storage\.(TypedStorage|UntypedStorage)|torch\.Size|torch\.device"
    r"|torch\.(b?float|half|double|u?int|long|short|bool|complex)\w*|torch\.Tensor"
    r"|torch\.nn\.parameter\.Parameter|collections\.OrderedDict|_?collections\.defaultdict"
    r"|numpy\.(_?core\.multiarray\.(_reconstruct|scalar)|ndarray|dtype)|_codecs\.encode"
)
Part = tuple[str, str, Opinion]


def judge_zip(path: Path) -> list[Part]:
    """Judge an archive (``torch.save``, TorchScript, ``.npz``): its members, then their pickles.

    Args:
        path: a file that begins like a zip archive.

    Returns:
        Part, text and opinion.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _members(archive, path)
    except (zipfile.BadZipFile, RuntimeError, OSError, EOFError, ValueError, zlib.error, LZMAError) as error:
        return [("", path.name, unknown(f"a damaged archive ({type(error).__name__})"))]


def judge_pickle(stream: IO[bytes], name: str, several: bool = False) -> list[Part]:
    """Judge a pickle by its instructions.

    Args:
        stream: the file.
        name: its name in the report.
        several: whether more than one may follow each other, as in old files of torch.
    """
    found: list[Part] = []
    pickles = 0
    while True:
        start = stream.tell()
        try:
            names, calls = _globals(stream)
        except (
            ValueError,
            KeyError,
            IndexError,
            EOFError,
            struct.error,
            RecursionError,
            UnicodeError,
        ) as error:
            if pickles == 0 or stream.tell() - start > 1:
                found.append((f"byte {start}", name, unknown(f"no whole pickle ({type(error).__name__})")))
            break
        pickles += 1
        found += [(f"byte {start}", text, _judge_global(text)) for text in names]
        if calls and not names:
            found.append(
                (f"byte {start}", ", ".join(calls), unknown("calls something that it does not name"))
            )
        if not several:
            break
        if not stream.read(1):
            break
        stream.seek(-1, io.SEEK_CUR)
    if several and stream.read(1):
        found.append(("", name, unknown("more follows than was judged")))
    return found or [("", name, safe("a pickle of plain values"))]


def judge_numpy(stream: IO[bytes], name: str) -> Part:
    """Judge a ``.npy`` file: an array of objects is a pickle."""
    head = stream.read(4096)
    if re.search(rb"'descr':\s*'?\|?O|\('[^']*',\s*'\|?O", head):
        return "", name, dangerous("an array of objects is a pickle: reading it can run code")
    return "", name, safe("an array of numbers")


def _members(archive: zipfile.ZipFile, path: Path) -> list[Part]:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    found: list[Part] = [("", path.name, safe("an archive, judged by its parts"))]
    if len(set(names)) < len(names):
        found.append(
            ("", path.name, dangerous("two parts have one name: readers differ in which one counts"))
        )
    if any(name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) for name in names):
        found.append(("", path.name, dangerous("a part leads out of the folder it is unpacked to")))
    if sum(info.file_size for info in infos) > _RATIO * max(path.stat().st_size, 1):
        return [*found, ("", path.name, dangerous("grows beyond measure when it is unpacked"))]
    if any(re.search(r"(^|/)code/.*\.py$", name) for name in names):
        reason = "TorchScript: a program, not weights; torch.jit.load would run it"
        found.append(("", path.name, unknown(reason)))
    for info in infos:
        found += _member(archive, info)
    return found


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> list[Part]:
    name = info.filename
    with archive.open(info) as member:
        head = member.read(8)
    pickled = name.endswith((".pkl", ".pickle")) or begins_pickle(head)
    if name.endswith((".py", ".so", ".dll", ".exe", ".sh")) and "/code/" not in f"/{name}":
        return [(name, name, dangerous("a program inside of an archive"))]
    if head.startswith(b"\x93NUMPY"):
        with archive.open(info) as member:
            return [(name, *judge_numpy(member, name)[1:])]
    # The bytes of a tensor may begin like anything.
    if not pickled or re.search(r"(^|/)(data|constants)/\d+$", name):
        return []
    if info.file_size > _LARGEST:
        return [(name, name, unknown(f"a pickle of more than {_LARGEST:,} bytes"))]
    with archive.open(info) as member:
        parts = judge_pickle(io.BytesIO(member.read()), name)
    return [(name, text, opinion) for _, text, opinion in parts]


def begins_pickle(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a pickle."""
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5


def _globals(stream: IO[bytes]) -> tuple[list[str], list[str]]:
    """Names that one pickle imports, and its instructions that call something."""
    names: dict[str, None] = {}
    calls: dict[str, None] = {}
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    last: Any = None
    for opcode, argument, _ in pickletools.genops(stream):
        code = opcode.name
        if code in _CALLS:
            calls[code] = None
        if code in ("GLOBAL", "INST"):
            names[str(argument).replace(" ", ".")] = None
            last = None
        elif code == "STACK_GLOBAL":
            parts = stack[-2:]
            known = len(parts) == 2 and all(isinstance(part, str) for part in parts)
            names[".".join(parts) if known else "?"] = None
            last = None
        elif code in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = last
        elif code == "MEMOIZE":
            memo[len(memo)] = last
        elif code in ("BINGET", "LONG_BINGET", "GET"):
            last = memo.get(argument)
            stack.append(last)
        elif code in ("EXT1", "EXT2", "EXT4"):
            names["?"] = None
        elif code not in ("PROTO", "FRAME", "STOP"):
            last = argument if "UNICODE" in code or "STRING" in code else None
            stack.append(last)
    return list(names), list(calls)


def _judge_global(text: str) -> Opinion:
    if text == "?":
        return dangerous("imports a name that it puts together while it is read")
    if _TENSORS.fullmatch(text):
        return safe("what torch and numpy write for tensors")
    if text.startswith("__torch__."):
        return unknown("a class of TorchScript")
    module, _, name = text.rpartition(".")
    renamed = {"__builtin__": "builtins", "nt": "os", "posix": "os"}.get(module, module)
    opinion = judge_name(f"{renamed}.{name}")
    if opinion.verdict is Verdict.DANGEROUS:
        return dangerous(f"unpickling calls {text}: {opinion.reason}")
    return unknown(f"unpickling imports {text}, which no weights need")
