"""The audit of a bundle: every config, logging file, script and file of weights, without running any."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from robustmed_monai.audit.arguments import judge_argument, judge_text
from robustmed_monai.audit.configs import SUFFIXES, Configs, Document, Leaf, absolute, flatten, read_document
from robustmed_monai.audit.logging_conf import judge_logging
from robustmed_monai.audit.models import begins_pickle, judge_numpy, judge_pickle, judge_zip
from robustmed_monai.audit.references import References, imported, judge_import, references_of
from robustmed_monai.audit.scripts import judge_script
from robustmed_monai.audit.values import UNKNOWN, Value
from robustmed_monai.audit.verdicts import Finding, Opinion, Report, Verdict, dangerous, unknown
from robustmed_monai.utils.errors import ConfigError

_MOST_FILES = 5000
_CUT = 160  # characters of a form that a report shows
_PROGRAMS = re.compile(r"\.(so|pyd|dll|dylib|exe|pyc|pth|egg|whl|sh|bat|cmd|ps1|jar|ipynb)")
_ARCHIVES = re.compile(r"\.(tar|tgz|gz|bz2|xz|7z|rar|zst)")
_IMAGES = (".nii.gz", ".svg.gz")


def audit_bundle(bundle: str | os.PathLike[str], extra: Iterable[str | os.PathLike[str]] = ()) -> Report:
    """Judge everything that a bundle could run; nothing of it is imported, evaluated or unpickled.

    Args:
        bundle: folder of the bundle, or one config file.
        extra: configs outside of the bundle that are laid over its own.

    Returns:
        All findings; ``report.verdict`` is the worst.

    Raises:
        ConfigError: when there is no such folder or file.

    Example:
        >>> from robustmed_monai.utils.bundle import bundle_root
        >>> audit_bundle(bundle_root("ra")).verdict.word
        'safe'
    """
    root = Path(bundle)
    if not root.exists():
        raise ConfigError(f"{root}: no such folder or file; give the folder of a bundle.")
    report = Report(str(root))
    documents: list[Document] = []
    files = sorted(_files(root, report)) if root.is_dir() else [root]
    for path in files:
        file = path.relative_to(root).as_posix() if root.is_dir() else path.name
        _file(path, file, root, report, documents)
    for other in map(Path, extra):
        if not other.is_file():
            raise ConfigError(f"{other}: no such config file; check the path.")
        _config(other, str(other), report, documents)
    _configs(documents, report)
    return report


def _files(root: Path, report: Report) -> list[Path]:
    """Files of a bundle; links that leave it and folders with too many files are findings."""
    found: list[Path] = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name != ".git"]
        for name in [*names, *files]:
            path = Path(folder) / name
            if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                opinion = unknown("a link that leaves the bundle")
                report.findings.append(_finding(path.relative_to(root).as_posix(), "", "file", name, opinion))
        found += [Path(folder) / name for name in files]
        if len(found) > _MOST_FILES:
            report.findings.append(
                _finding("", "", "file", root.name, unknown(f"more than {_MOST_FILES:,} files"))
            )
            return found[:_MOST_FILES]
    return found


def _file(path: Path, file: str, root: Path, report: Report, documents: list[Document]) -> None:
    """Judge one file by its name and its first bytes."""
    suffix = path.suffix.lower()
    if not path.is_file():
        report.findings.append(_finding(file, "", "file", file, unknown("no plain file")))
        return
    with path.open("rb") as stream:
        head = stream.read(8)
        stream.seek(0)
        parts: list[tuple[str, str, Opinion]] = []
        form = "model"
        if suffix in SUFFIXES and not (head[:1] == b"\x80" or head.startswith(b"PK")):
            return _config(path, file, report, documents)
        if suffix == ".py":
            form, parts = "script", judge_script(path, file)
        elif suffix == ".conf":
            form, parts = "logging", judge_logging(path)
        elif head.startswith(b"PK\x03\x04"):
            parts = judge_zip(path)
        elif suffix in (
            ".pt",
            ".pth",
            ".pkl",
            ".pickle",
            ".ckpt",
            ".bin",
            ".joblib",
            ".ts",
            ".dat",
        ) or begins_pickle(head):
            parts = judge_pickle(stream, file, several=True)
        elif head.startswith(b"\x93NUMPY"):
            parts = [judge_numpy(stream, file)]
        else:
            form, parts = "file", _other(file, suffix, head)
    report.findings += [_finding(file, key, form, text, opinion) for key, text, opinion in parts]


def _other(file: str, suffix: str, head: bytes) -> list[tuple[str, str, Opinion]]:
    if suffix == ".pyc" and "__pycache__/" in file:
        return [("", file, unknown("compiled code, which Python may run in place of its source"))]
    if _PROGRAMS.fullmatch(suffix) or head.startswith((b"\x7fELF", b"MZ", b"#!", b"\xcf\xfa\xed\xfe")):
        return [("", file, dangerous("a program, which a bundle has no use for"))]
    if _ARCHIVES.fullmatch(suffix) and not file.endswith(_IMAGES):
        return [("", file, unknown("an archive that was not opened"))]
    return []


def _config(path: Path, file: str, report: Report, documents: list[Document]) -> None:
    document, problems = read_document(path, file)
    if document is not None:
        documents.append(document)
        if re.fullmatch(r"large_files?\.(ya?ml|json)", file):
            report.findings += _fetched(document, path.parent)
    report.findings += [_finding(file, "", "config", file, opinion) for opinion in problems]


def _fetched(document: Document, root: Path) -> list[Finding]:
    """Files that are not there yet: what will be fetched was not judged."""
    listed = document.content.get("large_files") if isinstance(document.content, dict) else None
    paths = [str(item.get("path")) for item in listed or [] if isinstance(item, dict)]
    opinion = unknown("is fetched later: audit the bundle again when it is there")
    return [
        _finding(document.file, "large_files", "file", p, opinion) for p in paths if not (root / p).is_file()
    ]


def _configs(documents: list[Document], report: Report) -> None:
    """Judge every value of all configs."""
    configs = flatten(documents)
    for file, key, opinion in configs.problems:
        report.findings.append(_finding(file, key, "config", key, opinion))
    try:
        references = References(configs)
        report.findings += _judged(configs, references)
    except RecursionError:
        opinion = unknown("nested too deeply to be judged")
        report.findings.append(_finding("", "", "config", report.bundle, opinion))


def _judged(configs: Configs, references: References) -> list[Finding]:
    found: list[Finding] = []
    for leaf in configs.leaves:
        for form, opinion in _leaf(leaf, references):
            if opinion.verdict is not Verdict.SAFE or not leaf.copied:
                found.append(_finding(leaf.file, leaf.key, form, str(leaf.value), opinion))
    return found


def _leaf(leaf: Leaf, references: References) -> list[tuple[str, Opinion]]:
    """Form and opinion of one value: of itself, and of the argument that it is."""
    found: list[tuple[str, Opinion]] = []
    text = absolute(leaf.key, leaf.value) if isinstance(leaf.value, str) else None
    value = Value("data", literal=leaf.value)
    if isinstance(leaf.value, str) and text is None:
        return [("reference", unknown("a relative id leads out of the config"))]
    if text and text.startswith("$"):
        if imported(text) is not None:
            found.append(("import", judge_import(text)))
            value = UNKNOWN
        else:
            opinion, value = references.judge(leaf.key, text[1:])
            found.append(("expression", opinion))
    elif text and text.startswith("@") and references_of(text):
        value = references.value(text[1:]) or UNKNOWN
        if value.kind == "module":
            found.append(("reference", unknown(f"passes the module {value.name} on, with all that is in it")))
    elif text and leaf.last != "_target_" and (named := judge_text(text)):
        found.append(("text", named))
    if text and references_of(text) and references.loop(leaf.key):
        found.append(("reference", unknown("references that lead back to it, or too far to be followed")))
    if leaf.last == "_target_":
        found += [("target", opinion) for opinion, _ in references.targets(leaf.key)]
    elif (argument := judge_argument(leaf.last, value)) is not None:
        found.append(("argument", argument))
    return found


def _finding(file: str, key: str, form: str, text: str, opinion: Opinion) -> Finding:
    shown = text if len(text) <= _CUT else f"{text[:_CUT]}..."
    return Finding(file, key, form, shown, opinion.verdict, opinion.reason)
