"""Which Holdfast this is."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Final

try:
    VERSION: Final = version("holdfast")
except PackageNotFoundError:  # run from a source tree that is not installed
    VERSION = "0.0.0+source"  # type: ignore[misc]

BUILD: Final = os.environ.get("HOLDFAST_BUILD", "")
"""The commit that the image was built from, when known."""
