"""docs/grpcurl.md: every command on the page is run, with `buf curl` and, where it is installed, with `grpcurl`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from harness import node
from harness.processes import Deployment
from harness.requirements import missing

pytestmark = pytest.mark.node

DEADLINE_S = 120.0
CODE = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^## (.*)$", re.MULTILINE)
MARK = "--- the next command"
REFUSALS = ["invalid_argument", "not_found"]
"""What an empty request may be answered with, in the words of buf."""
WITH_UNARY_METHODS = {
    "grpc.health.v1.Health",
    "holdfast.v1.QueueService",
    "holdfast.v1.RunService",
    "holdfast.v1.ScheduleService",
    "holdfast.v1.TaskService",
    "holdfast.v1.TokenService",
}

SAYS = {
    "What is there": ["holdfast.v1.RunService"],
    "Calling": ["protocolMajor", "ask-approval"],
    "Trigger and retrieve": ["RUN_STATUS_COMPLETED", '"hello Ada"', '"isCached": true'],
    "List, explain and watch": ["RUN_STATUS_COMPLETED", "It ended COMPLETED"],
    "Complete a token": ["token_", '"won": true', "RUN_STATUS_COMPLETED"],
    "Cancel": ['"accepted": true', "It ended CANCELED"],
    "Health": ["SERVING"],
}
"""What the commands below each heading print, besides other things."""


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "grpcurl.md").read_text()


@pytest.fixture
def site(page: str, sqlite_url: str, deploy: Callable[..., Deployment]) -> Deployment:
    """A scheduler, and a worker with the tasks of the page."""
    site: Deployment = deploy(sqlite_url)
    (code,) = [code for language, code in CODE.findall(page) if language == "python"]
    (site.folder / "approval.py").write_text(code)
    site.start_scheduler()
    site.start_worker("approval.py")
    site.wait_for_workers("greet")
    return site


def _commands(page: str, tool: str, others: set[str]) -> Iterator[tuple[str, str]]:
    """(heading, block) of each block that is for `tool` or for any."""
    for section in re.split(r"(?=^## )", page, flags=re.MULTILINE)[1:]:
        heading = HEADING.findall(section)[0]
        for language, code in CODE.findall(section):
            if language == "sh" and not any(re.search(rf"\b{other} ", code) for other in others):
                yield heading, code


@pytest.mark.parametrize("tool", ["grpcurl", "buf"])
def test_every_command_of_the_page_works(page: str, tool: str, site: Deployment) -> None:
    folder = node.tools() if tool == "buf" else None
    if tool == "grpcurl" and shutil.which("grpcurl") is None:
        missing("grpcurl", "it is not installed; the page is tested with buf")
    commands = list(_commands(page, tool, {"grpcurl", "buf"} - {tool}))
    script = f"\necho '{MARK}'\n".join(code for _, code in commands).replace("127.0.0.1:4653", site.address)
    path = os.pathsep.join([str(folder), os.environ["PATH"]]) if folder else os.environ["PATH"]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**site.environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed: dict[str, str] = {}
    for (heading, _), output in zip(commands, done.stdout.split(MARK), strict=True):
        printed[heading] = printed.get(heading, "") + output
    assert printed.keys() == SAYS.keys()
    for heading, parts in SAYS.items():
        for part in parts:
            assert part in printed[heading], f"{heading}:\n{printed[heading]}"


def _unary_methods(channel: grpc.Channel) -> Iterator[str]:
    """All there are. The pool is empty at first: what a method takes and gives is described by the scheduler too."""
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    for name in database.get_services():
        for method in pool.FindServiceByName(name).methods:
            if not method.client_streaming and not method.server_streaming:
                yield f"{name}/{method.name}"


def test_every_unary_method_is_listed_described_and_called(site: Deployment) -> None:
    buf = str(node.tools() / "buf")
    methods = list(_unary_methods(site.channel))
    assert {method.partition("/")[0] for method in methods} == WITH_UNARY_METHODS
    listed = subprocess.run(
        [buf, "curl", "--protocol", "grpc", "--list-methods", f"http://{site.address}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    ).stdout.split()
    assert set(methods) <= set(listed)
    for method in methods:
        url = f"http://{site.address}/{method}"
        done = subprocess.run(
            [buf, "curl", "--protocol", "grpc", "-d", "{}", url], capture_output=True, text=True, timeout=DEADLINE_S
        )
        if done.returncode:
            # An empty request may be refused, by the scheduler and in its own words.
            error = json.loads(done.stderr)
            assert error["code"] in REFUSALS, f"{method}: {error}"
            assert error["details"][0]["type"] == "google.rpc.ErrorInfo", f"{method}: {error}"
