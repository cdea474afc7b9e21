"""Writes the sha256 of the shipped weights and of their info into the bundles' metadata.json.

    python tools/update_digests.py

Run it after the weights of a bundle or the JSON beside them were changed on purpose.
"""

from __future__ import annotations

from pathlib import Path

from format_configs import laid_out

from robustmed_monai.utils.files import atomic_path, read_json, sha256
from robustmed_monai.utils.weight_info import info_digest

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"


def main() -> None:
    """Update every bundle's metadata.json; one that is right stays as it is."""
    for path in sorted(BUNDLES.glob("*/configs/metadata.json")):
        metadata = read_json(path)
        for name, entry in metadata.get("weights", {}).items():
            file = path.parents[1] / "models" / name
            entry["sha256"] = sha256(file)
            if file.with_suffix(".json").exists():
                entry["info_sha256"] = info_digest(read_json(file.with_suffix(".json"))["info"])
        text = laid_out(metadata) + "\n"
        if text != path.read_text(encoding="utf-8"):
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
