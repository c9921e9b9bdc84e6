"""What the README tells a newcomer to copy works as it is printed."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from harness.processes import Deployment


def test_the_lines_to_copy_work_as_printed(repository: Path, deploy: Callable[..., Deployment]) -> None:
    blocks = re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```", (repository / "README.md").read_text(), re.S | re.M)
    [(name, code)] = blocks
    site: Deployment = deploy("")
    (site.folder / name).write_text(code)
    dev = site.start("dev", "dev", name, environment={"HOLDFAST_LISTEN": site.address})
    site.wait_for_scheduler(dev)
    site.wait_for_workers("ship-order")

    def run() -> subprocess.CompletedProcess[str]:
        command = [site.python, name]
        return subprocess.run(
            command, cwd=site.folder, env=site.environment, capture_output=True, text=True, timeout=60
        )

    first, second = run(), run()
    assert first.returncode == 0, first.stderr
    run_id, _, output = first.stdout.strip().partition(" ")
    assert run_id.startswith("run_")
    assert output == "['receipt for A-17', 'packed pen', 'packed ink']"
    assert second.stdout == first.stdout  # the key returns the same run
    assert run_id in site.holdfast("runs", "list").stdout
    assert dev.stop(signal.SIGINT) == 0


def test_every_file_that_the_readme_links_to_is_there(repository: Path) -> None:
    for document in ("README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md", "docs/cli.md", "docs/guarantees.md"):
        path = repository / document
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{document} links to {target}"


def test_the_guarantees_name_tests_that_are_there(repository: Path) -> None:
    text = (repository / "docs" / "guarantees.md").read_text()
    tests = (repository / "tests" / "integration" / "test_promises.py").read_text()
    there = set(re.findall(r"^def (test_promise_\d_\w+)", tests, re.M))
    assert set(re.findall(r"`(test_promise_\d_\w*[a-z])`", text)) == there


def test_every_make_target_that_the_documents_name_is_there(repository: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (repository / "Makefile").read_text(), re.M))
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"(?:`|^)make ([a-z]+)", (repository / document).read_text(), re.M):
            assert target in targets, f"{document} names make {target}"
