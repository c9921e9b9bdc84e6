"""The committed code of the contract equals a fresh generation from the .proto files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_committed_code_equals_a_fresh_generation(repository: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(repository / "protos" / "generate.py"), str(tmp_path)], check=True)
    fresh = {path.name: path.read_text() for path in (tmp_path / "holdfast" / "v1").iterdir()}
    committed = {
        path.name: path.read_text()
        for path in (repository / "sdk" / "holdfast" / "v1").iterdir()
        if "_pb2" in path.name and path.suffix in {".py", ".pyi"}
    }
    assert sorted(fresh) == sorted(committed), "run `make protos` and commit the result"
    stale = [name for name, text in fresh.items() if committed[name] != text]
    assert not stale, f"{stale}: run `make protos` and commit the result"
