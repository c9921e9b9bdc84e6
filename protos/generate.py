"""Generate the Python code of the contract: `python protos/generate.py [OUTPUT]`, by default into sdk/.

Files without a service get no `*_pb2_grpc.py`: it would be empty.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
SDK = PROTOS.parent / "sdk"


def generate(output: Path) -> None:
    """Write the generated package `holdfast.v1` below `output`. Raises SystemExit when protoc refuses a file."""
    sources = sorted(PROTOS.glob("holdfast/v1/*.proto"))
    with_service = [path for path in sources if "\nservice " in path.read_text()]
    include = [f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}"]
    _protoc([*include, f"--python_out={output}", f"--pyi_out={output}", *map(str, sources)])
    _protoc([*include, f"--grpc_python_out={output}", *map(str, with_service)])


def _protoc(arguments: list[str]) -> None:
    code = protoc.main(["protoc", *arguments])
    if code != 0:
        raise SystemExit(code)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SDK)
