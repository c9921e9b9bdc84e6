"""What a machine may lack: a visible skip on a laptop, an error where HOLDFAST_REQUIRE names it."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(requirement: str, reason: str) -> NoReturn:
    """Skip the test, or fail it when HOLDFAST_REQUIRE (such as `postgres,compose`) names `requirement`."""
    required = {name.strip() for name in os.environ.get("HOLDFAST_REQUIRE", "").split(",")}
    if requirement in required:
        pytest.fail(f"HOLDFAST_REQUIRE asks for {requirement}: {reason}", pytrace=False)
    pytest.skip(f"{requirement}: {reason}")
