"""The TypeScript clients and the tools that npm brings: installed from the lock file, generated and compiled once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from harness.requirements import missing

FOLDER = Path(__file__).resolve().parent.parent / "clients" / "typescript"
PROTOS = FOLDER.parents[2] / "protos"
MINIMUM = 20
"""Major version of node."""
DEADLINE_S = 170.0


def require_node() -> None:
    """Skip, or fail where HOLDFAST_REQUIRE names node, when node or npm is missing or too old."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        missing("node", "node and npm are not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    if not version.startswith("v") or int(version[1:].partition(".")[0]) < MINIMUM:
        missing("node", f"node is {version or 'broken'}; {MINIMUM} or newer is needed")


def tools() -> Path:
    """The folder of commands (`buf`) that the lock file installs."""
    require_node()
    with _locked():
        _install()
    return FOLDER / "node_modules" / ".bin"


def built() -> Path:
    """The folder of the compiled clients."""
    require_node()
    with _locked():
        _install()
        sources = [
            *PROTOS.rglob("*.proto"),
            *FOLDER.glob("src/*.ts"),
            FOLDER / "tsconfig.json",
            FOLDER / "buf.gen.yaml",
        ]
        stamp = FOLDER / "dist" / ".made-of"
        made_of = _digest([*sources, FOLDER / "package-lock.json"])
        if not stamp.exists() or stamp.read_text() != made_of:
            done = _npm("run", "build")
            assert done.returncode == 0, f"the TypeScript clients do not compile:\n{done.stdout}{done.stderr}"
            stamp.write_text(made_of)
    return FOLDER / "dist" / "src"


def _install() -> None:
    stamp = FOLDER / "node_modules" / ".made-of"
    made_of = _digest([FOLDER / "package-lock.json", FOLDER / "package.json"])
    if not stamp.exists() or stamp.read_text() != made_of:
        done = _npm("ci")
        if done.returncode != 0 and _npm("ping").returncode != 0:
            missing("node", "the npm registry does not answer")
        assert done.returncode == 0, f"npm ci failed:\n{done.stderr}"
        stamp.write_text(made_of)


def _npm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["npm", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=DEADLINE_S)


def _digest(paths: list[Path]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sorted(paths))).hexdigest()


class _locked:
    """Test processes that run in parallel install and build one after the other."""

    def __enter__(self) -> None:
        self._file = os.open(FOLDER, os.O_RDONLY)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
