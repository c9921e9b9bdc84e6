"""docs/deploy.md has every setting of docker-compose.yml, with the default that is in force."""

from __future__ import annotations

import re
from pathlib import Path

VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
ROW = re.compile(r"^\| `(\w+)` \| (?:`([^`]*)`|\(empty\)) \|", re.MULTILINE)


def test_every_variable_of_the_compose_file_is_on_the_page(repository: Path) -> None:
    compose = (repository / "docker-compose.yml").read_text()
    used = set(VARIABLE.findall(compose))
    assert len({name for name, _ in used}) == len(used), "a variable has two defaults"
    assert compose.count("${") == len(VARIABLE.findall(compose)), "a variable has no default"
    assert set(ROW.findall((repository / "docs" / "deploy.md").read_text())) == used


def test_the_dockerfile_needs_nothing_of_new_builders(repository: Path) -> None:
    text = (repository / "Dockerfile").read_text()
    assert not text.startswith("# syntax=")
    assert "<<" not in text
    assert "--mount" not in text
