"""Versions of the software that determines bytes, for the record."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "shardmill",
    "numpy",
    "open-clip-torch",
    "openvino",
    "pillow",
    "pyarrow",
    "simplejpeg",
    "timm",
    "torch",
    "torchvision",
)


@cache
def _installed() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def software_versions() -> dict[str, str]:
    """Package → version of what is installed here."""
    return dict(_installed())
