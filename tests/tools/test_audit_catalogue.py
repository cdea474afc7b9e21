"""The catalogue of the page says what the audit says today."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_verdicts_of_the_page(repository: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "audit_catalogue", repository / "tools" / "audit_catalogue.py"
    )
    assert spec is not None
    assert spec.loader is not None
    catalogue = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(catalogue)
    written = list(catalogue.written((repository / "docs" / "audit.md").read_text(encoding="utf-8")))
    assert len(written) > 500
    imports = [[form, 1] for kind, form, _ in written if kind == "import"]
    forms: dict[str, list[list[object]]] = {name: [] for name in catalogue.KINDS}
    forms["imports"] = imports
    bound = catalogue.bound_names(forms)
    changed = [
        (kind, form, word, now)
        for kind, form, word in written
        if (now := catalogue.judge(kind, form, bound).verdict.word) != word
    ]
    assert changed == []
