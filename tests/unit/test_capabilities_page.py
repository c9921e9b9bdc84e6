"""docs/capabilities.md: what it names exists, and each row has a test that runs on both databases."""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_overloads

import pytest
from google.protobuf.descriptor import Descriptor

from harness.scenarios import SCENARIOS
from holdfast import _hooks, options
from holdfast.v1 import (
    payload_pb2,
    queue_service_pb2,
    run_pb2,
    run_service_pb2,
    schedule_service_pb2,
    task_pb2,
    token_service_pb2,
    worker_service_pb2,
)

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "capabilities.md").read_text()
MODULES = (
    payload_pb2,
    queue_service_pb2,
    run_pb2,
    run_service_pb2,
    schedule_service_pb2,
    task_pb2,
    token_service_pb2,
    worker_service_pb2,
)
DATABASES = ["sqlite", "postgres"]
BOTH = frozenset(DATABASES)


@dataclass(frozen=True)
class Row:
    capability: str
    contract: tuple[str, ...]
    python: tuple[str, ...]
    scenarios: tuple[str, ...]
    tests: tuple[str, ...]


def rows() -> list[Row]:
    found = []
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.split("|")][1:-1]
        if not cells or cells[0] == "capability" or set(cells[0]) == {"-"}:
            continue
        assert len(cells) == 5, line
        names = [tuple(re.findall(r"`([^`]+)`", cell)) for cell in cells]
        scenarios = tuple(re.findall(r"S: `(\w+)`", cells[4]))
        found.append(Row(cells[0], names[1], names[2], scenarios, tuple(n for n in names[4] if n not in scenarios)))
    return found


ROWS = rows()
rows_apart = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.capability.replace(" ", "-"))


def test_the_page_has_its_sections() -> None:
    assert len(ROWS) > 50
    for section in ("Tasks", "Triggering", "Idempotency", "Waits and tokens", "Queues", "Runs"):
        assert f"\n## {section}\n" in PAGE


@rows_apart
def test_names_of_the_contract_exist(row: Row) -> None:
    missing = [name for name in row.contract if not in_contract(name)]
    assert missing == []


def in_contract(name: str) -> bool:
    for module in MODULES:
        file: Any = module.DESCRIPTOR
        first, _, rest = name.partition(".")
        if first in file.services_by_name:
            return rest in file.services_by_name[first].methods_by_name
        if first in file.enum_types_by_name:
            return not rest
        if any(first in enum.values_by_name for enum in file.enum_types_by_name.values()):
            return not rest
        if first in file.message_types_by_name:
            message: Descriptor = file.message_types_by_name[first]
            if not rest or rest in message.fields_by_name:
                return True
    return False


@rows_apart
def test_names_of_python_exist(row: Row) -> None:
    missing = [name for name in row.python if not in_python(name)]
    assert missing == []


def in_python(name: str) -> bool:
    path, _, option = name.partition("(")
    root: Any = importlib.import_module("holdfast")
    if path.startswith("asyncio."):
        return hasattr(asyncio, path.removeprefix("asyncio."))
    owner: Any = None
    for part in path.split("."):
        owner = root
        if not hasattr(root, part):
            return inspect.isclass(owner) and part in annotations_of(owner)
        root = getattr(root, part)
    if not option:
        return True
    return option.removesuffix("=)") in options_of(root)


def annotations_of(owner: Any) -> set[str]:
    """Fields of a class: also of those with slots, and attributes that are set when it is made."""
    made = re.findall(r"self\.(\w+) =", inspect.getsource(owner)) if inspect.isclass(owner) else []
    return {*getattr(owner, "__annotations__", {}), *made}


def options_of(function: Any) -> set[str]:
    """Keyword arguments of a function, also those that a TypedDict collects."""
    found = set()
    if function is importlib.import_module("holdfast").task:
        found |= set(inspect.signature(importlib.import_module("holdfast").Task).parameters)
        found |= set(_hooks.HookOptions.__annotations__)
    for one in [*get_overloads(function), function]:
        signature = inspect.signature(one)
        found |= set(signature.parameters)
        for parameter in signature.parameters.values():
            collected = re.search(r"Unpack\[(\w+)\]", str(parameter.annotation))
            if collected:
                given = getattr(options, collected[1], None)
                found |= set(given.__annotations__) if given is not None else set()
                for base in getattr(given, "__orig_bases__", ()):
                    found |= set(getattr(base, "__annotations__", {}))
    return found


@rows_apart
def test_each_row_is_tested_on_both_databases(row: Row) -> None:
    known = {scenario.__name__ for scenario in SCENARIOS}
    assert [name for name in row.scenarios if name not in known] == []
    databases = set(BOTH) if row.scenarios else set()
    for test in row.tests:
        file, _, function = test.partition("::")
        databases |= databases_of(file, function)
    assert databases == BOTH, f"{row.capability}: no test on {BOTH - databases}"


@dataclass(frozen=True)
class Fixture:
    arguments: tuple[str, ...]
    databases: frozenset[str]


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def fixtures(path: Path) -> dict[str, Fixture]:
    """The fixtures of a file: what they ask for, and the databases of their parameters."""
    found = {}
    for node in parsed(path).body if path.exists() else []:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in node.decorator_list:
            text = ast.unparse(decorator)
            if text.startswith("pytest.fixture"):
                on = BOTH if f"params={DATABASES!r}" in text else frozenset[str]()
                found[node.name] = Fixture(arguments_of(node), on)
    return found


def arguments_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    return tuple(argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))


def databases_of(file: str, function: str) -> set[str]:
    """On which databases a test runs, by the fixtures that it asks for, directly or through others."""
    path = TESTS / file
    assert path.exists(), f"there is no {file}"
    nodes = [
        node
        for node in parsed(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function
    ]
    assert nodes, f"there is no {function} in {file}"
    known = {
        **fixtures(TESTS / "conftest.py"),
        **fixtures(path.parent / "conftest.py"),
        **fixtures(path),
    }
    found: set[str] = set()
    seen: set[str] = set()
    wanted = list(arguments_of(nodes[0]))
    for decorator in nodes[0].decorator_list:
        used = re.match(r"pytest\.mark\.usefixtures\((.*)\)", ast.unparse(decorator))
        wanted += re.findall(r"'(\w+)'", used[1]) if used else []
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        found |= {database for database in DATABASES if re.search(rf"(^|_){database}_(url|server)$", name)}
        fixture = known.get(name)
        if fixture is not None:
            found |= fixture.databases
            wanted += fixture.arguments
    return found


def test_the_detection_tells_databases_apart() -> None:
    """A check that never fails proves nothing."""
    assert databases_of("integration/test_promises.py", "test_branches_survive_a_crash") == BOTH
    assert databases_of("integration/test_readme.py", "test_every_file_that_the_readme_links_to_is_there") == set()
    file = "integration/test_trigger_storm.py"
    name = "test_promise_6_ten_thousand_triggers_with_a_hundred_keys_make_a_hundred_runs_on_"
    assert databases_of(file, f"{name}sqlite") == {"sqlite"}
    assert databases_of(file, f"{name}two_replicas") == {"postgres"}
    with pytest.raises(AssertionError, match="there is no test_nothing"):
        databases_of(file, "test_nothing")
    assert not in_contract("RunService.Explode")
    assert not in_contract("TriggerOptions.colour")
    assert not in_python("tasks.explode")
    assert not in_python("Task.trigger(colour=)")
