"""Write the commit into what is built, so that an installed package knows it; all else is in setup.cfg."""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
FILE = "robustmed_monai/utils/commit.txt"


def write_commit(folder: str) -> None:
    """Write the commit below ``folder``; nothing outside of a checkout, where the file may lie already."""
    git = ["git", "-C", str(HERE), "rev-parse", "--show-toplevel", "--short=12", "HEAD"]
    try:
        top, commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError, ValueError):
        return
    if Path(top) == HERE:
        Path(folder, FILE).write_text(commit + "\n", encoding="utf-8")


class BuildPackage(build_py):
    """Copies the package, and adds the commit."""

    def run(self) -> None:
        """Copy; an editable installation asks git itself."""
        super().run()
        if not self.editable_mode:
            write_commit(self.build_lib)


class SourceDistribution(sdist):
    """Packs the sources, and adds the commit."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Lay the files out."""
        super().make_release_tree(base_dir, files)
        write_commit(base_dir)


setup(cmdclass={"build_py": BuildPackage, "sdist": SourceDistribution})
