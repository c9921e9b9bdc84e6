"""The examples of pages that have an `app.py` and a `look.py` run, and print what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.processes import Deployment

PROGRAM = re.compile(r"^```python\n# (\w+\.py).*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTS = re.compile(r"^It prints:\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
A_TASK = re.compile(r'@task\(id="([^"]+)"')


@pytest.mark.parametrize("page", ["queues.md", "waits-and-tokens.md", "coming-from-trigger-dev.md"])
def test_the_example_prints_what_the_page_says(
    page: str, repository: Path, sqlite_url: str, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    text = (repository / "docs" / page).read_text()
    programs = dict(PROGRAM.findall(text))
    assert list(programs) == ["app.py", "look.py"]
    [expected] = PRINTS.findall(text)
    folder = tmp_path / "example"
    folder.mkdir()
    for name, program in programs.items():
        (folder / name).write_text(program)
    site = deploy(sqlite_url)
    site.start_scheduler()
    site.start_worker(str(folder / "app.py"))
    site.wait_for_workers(A_TASK.findall(programs["app.py"])[-1])
    done = subprocess.run(
        [sys.executable, "look.py"], cwd=folder, env=site.environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
