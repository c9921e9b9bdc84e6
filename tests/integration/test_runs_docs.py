"""docs/runs.md: its example runs, prints what the page promises, and its names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.processes import Deployment
from holdfast.filters import Conditions
from holdfast_scheduler.settings import Limits

PROGRAM = re.compile(r"^```python\n# (\w+\.py).*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "runs.md").read_text()


def test_the_example_runs(page: str, sqlite_url: str, tmp_path: Path, deploy: Callable[..., Deployment]) -> None:
    programs = dict(PROGRAM.findall(page))
    assert list(programs) == ["app.py", "look.py"]
    folder = tmp_path / "example"
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
    site = deploy(sqlite_url)
    site.start_scheduler()
    site.start_worker(str(folder / "app.py"))
    site.wait_for_workers("export")
    done = subprocess.run(
        [sys.executable, "look.py"], cwd=folder, env=site.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    states = lines[: lines.index("COMPLETED ") + 1]
    assert {line.split(" ")[0] for line in states} <= {"QUEUED", "EXECUTING", "WAITING", "COMPLETED"}
    shown, logged, why, spent, *rest = lines[len(states) :]
    assert shown == "8 ['SUCCEEDED'] ['count', 'for 0:00:00.200000']"
    assert logged == "['exporting']"
    assert re.fullmatch(r"It waits since 20\S+Z for the token token_\w{26}, at the latest until 20\S+Z.*\.", why)
    assert re.fullmatch(r"executing: 0:00:0\S+ waiting: 0:00:0\S+", spent)
    assert rest == [
        "100",
        "2",
        "completed: export",
        "completed: export",
        "canceled: 1 had ended: 2",
        "5",
    ]


def test_the_page_has_every_condition_and_the_limits(page: str) -> None:
    missing = [name for name in Conditions.__annotations__ if f"`{name}" not in page]
    assert missing == []
    limits = Limits()
    assert f"looks at {limits.scanned_runs:,} runs" in page
    assert f"{limits.scanned_metadata_bytes >> 20} MiB of metadata" in page
    assert f"newest {limits.watched_runs:,} runs are followed" in page
