"""Other versions of Python on this machine, and clean environments made of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness.requirements import missing

INSTALL_DEADLINE_S = 500.0
_NO_NETWORK = ("NewConnectionError", "Temporary failure in name resolution", "Network is unreachable")


def python_of(version: str) -> str:
    """The interpreter of a version such as "3.12": this one, one on PATH, or one of pyenv's.

    Skips, or fails where HOLDFAST_REQUIRE names `python3.12`, when there is none.
    """
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}")]
    if os.access(pyenv, os.R_OK | os.X_OK):  # PYENV_ROOT may be another user's
        candidates += map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))
    for candidate in candidates:
        if candidate is not None and _answers(candidate, version):
            return candidate
    missing(f"python{version}", "it is not installed here")


def _answers(python: str, version: str) -> bool:
    # A shim of pyenv is on PATH for every version, also for those that are not chosen.
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30)
    return done.stdout.strip() == version


class Environment:
    """A clean virtual environment, in which nothing of the repository is found but what is installed."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.python = str(folder / "bin" / "python")
        # Made by the interpreter itself: one made from within another environment would be tied to it.
        subprocess.run([python, "-m", "venv", str(folder)], check=True, timeout=INSTALL_DEADLINE_S)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables for what runs in it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "PYTHON"))}
        return {**kept, "PYTHONUNBUFFERED": "1", "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def install(self, *requirements: str) -> None:
        """`pip install`. Skips when the machine has no network."""
        done = self.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
        if done.returncode != 0 and any(sign in done.stderr for sign in _NO_NETWORK):
            missing("network", "the package index cannot be reached")
        assert done.returncode == 0, done.stderr

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run its Python in its own folder."""
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=INSTALL_DEADLINE_S,
        )

    def holdfast(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the installed command."""
        return self.run(str(self.folder / "bin" / "holdfast"), *arguments, **variables)
