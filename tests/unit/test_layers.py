"""Who may import whom (section 6 of the design): held here, so that a shortcut does not become a habit."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SCHEDULER_ROWS = (
    {"model", "errors", "ids", "settings", "version"},  # nouns; the settings are plain numbers
    {
        "run_machine",
        "backoff",
        "admission",
        "definitions",
        "filter",
        "metadata_document",
        "cron",
        "schedule_rules",
    },  # rules
    {
        "schema",
        "migrations",
        "database",
        "pipeline",
        "postgres",
        "replicas",
        "store",
        "logs",
        "reads",
        "queue_reads",
        "listing",
        "schedule_store",
        "schedule_reads",
    },  # storage
    {  # engine
        "unit_of_work",
        "propagation",
        "triggering",
        "tokens",
        "reporting",
        "sessions",
        "backlog",
        "moving",
        "retention",
        "retention_loop",
        "queues",
        "debouncing",
        "firing",
        "schedules",
        "claiming",
        "dispatch",
        "commands",
        "commit_loop",
        "timers",
        "watching",
        "engine",
    },
    {"services", "convert", "messages", "schedule_messages", "worker_frames"},  # edge
    {"main"},  # process
)
"""Each module of the scheduler imports only its own row and those above it."""


def _imports(path: Path, package: str) -> set[str]:
    """Absolute names of all modules that a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            module = node.module or ""
            if node.level:
                module = f"{base}.{module}" if module else base
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def _package(path: Path, top: Path) -> str:
    return ".".join(path.relative_to(top).parent.parts)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "_pb2" not in path.name)


def _is_under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_the_scheduler_imports_nothing_of_ours_but_the_contract(repository: Path) -> None:
    top = repository / "scheduler"
    for path in _files(top):
        for name in _imports(path, _package(path, top)):
            assert not _is_under(name, "holdfast_worker"), f"{path} imports {name}"
            if _is_under(name, "holdfast"):
                assert _is_under(name, "holdfast.v1"), f"{path} imports {name}"


def test_the_sdk_imports_neither_end(repository: Path) -> None:
    top = repository / "sdk"
    for path in _files(top):
        if "cli" in path.parts:
            continue
        for name in _imports(path, _package(path, top)):
            assert not _is_under(name, "holdfast_worker"), f"{path} imports {name}"
            assert not _is_under(name, "holdfast_scheduler"), f"{path} imports {name}"


def test_the_worker_does_not_import_the_scheduler(repository: Path) -> None:
    top = repository / "worker"
    for path in _files(top):
        for name in _imports(path, _package(path, top)):
            assert not _is_under(name, "holdfast_scheduler"), f"{path} imports {name}"


def test_the_command_line_loads_each_end_only_inside_a_function(repository: Path) -> None:
    for path in _files(repository / "sdk" / "holdfast" / "cli"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                line = ast.unparse(node)
                assert "holdfast_scheduler" not in line, f"{path}: {line}"
                assert "holdfast_worker" not in line, f"{path}: {line}"


def test_every_module_of_the_scheduler_has_its_row(repository: Path) -> None:
    folder = repository / "scheduler" / "holdfast_scheduler"
    found = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__"} == set().union(*SCHEDULER_ROWS)


@pytest.mark.parametrize("row", range(len(SCHEDULER_ROWS)))
def test_scheduler_modules_import_only_rows_above(repository: Path, row: int) -> None:
    top = repository / "scheduler"
    below = set().union(*SCHEDULER_ROWS[row + 1 :])
    for path in _files(top):
        module = path.relative_to(top / "holdfast_scheduler").parts[0].removesuffix(".py")
        if module not in SCHEDULER_ROWS[row]:
            continue
        for name in _imports(path, _package(path, top)):
            if _is_under(name, "holdfast_scheduler") and name != "holdfast_scheduler":
                imported = name.split(".")[1]
                assert imported not in below, f"{path} imports {name}, which is below it"


def test_rules_use_no_clock_no_randomness_and_no_io(repository: Path) -> None:
    forbidden = {"time", "random", "secrets", "asyncio", "threading", "socket", "os", "sqlalchemy", "grpc"}
    for module in {"model"} | SCHEDULER_ROWS[1]:
        path = repository / "scheduler" / "holdfast_scheduler" / f"{module}.py"
        for name in _imports(path, "holdfast_scheduler"):
            assert name.split(".")[0] not in forbidden, f"{path} imports {name}"
