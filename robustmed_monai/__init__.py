"""Robust medical imaging methods as MONAI networks, losses, transforms, inferers and bundles."""

# Raised with each release; `__version__` adds the commit.
VERSION = "0.1.0"


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Asked for, not computed at import: git is another process.
    from robustmed_monai.utils.version import full_version

    return full_version()
