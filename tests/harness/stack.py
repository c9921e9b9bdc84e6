"""The shipped docker-compose.yml, built and started for real, and judged by an outside ledger."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

from harness.ledger import Effect, Ledger, repeated_fences
from harness.ports import free_port
from harness.requirements import missing
from harness.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = ["docker-compose.yml", "tests/compose/override.yml"]
PROJECT = "holdfast-test"
PASSED = "passed "
BUILD_DEADLINE_S = 900.0
DEADLINE_S = 180.0


def require_engine() -> None:
    """Skip, or fail where HOLDFAST_REQUIRE names compose, when no container engine with Compose 2 answers."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        missing("compose", "these tests share one stack: run them by themselves with `make compose`")
    if shutil.which("docker") is None:
        missing("compose", "docker is not installed")
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        if subprocess.run(command, capture_output=True, timeout=60).returncode != 0:
            missing("compose", f"`{' '.join(command)}` fails: no container engine answers")


class Stack:
    """All containers of the compose file. `folder` is the outside world: the workers have it at /outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o777)  # the containers have another user
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.ports = (free_port(), free_port())
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")},
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_FILE": os.pathsep.join(FILES),
            "COMPOSE_PATH_SEPARATOR": os.pathsep,
            "HOLDFAST_PORT_A": str(self.ports[0]),
            "HOLDFAST_PORT_B": str(self.ports[1]),
            "HOLDFAST_TEST_OUTSIDE": str(folder),
        }

    @property
    def addresses(self) -> str:
        """Both schedulers, as this machine reaches them."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def compose(self, *arguments: str, deadline_s: float = DEADLINE_S) -> str:
        """Run `docker compose ARGUMENTS` and return what it prints. Raises RuntimeError with its errors."""
        return self._run(["docker", "compose", *arguments], deadline_s)

    def docker(self, *arguments: str) -> str:
        """Run `docker ARGUMENTS`."""
        return self._run(["docker", *arguments], DEADLINE_S)

    def up(self) -> None:
        """Build once, start everything, and return when all of it is healthy."""
        self.down()
        self.compose("build", "--quiet", deadline_s=BUILD_DEADLINE_S)
        self.settle()

    def settle(self, workers: int = 2) -> None:
        """Bring back whatever a test took away, and return when everything is healthy."""
        up = ["up", "--no-build", "--no-recreate", "--scale", f"worker={workers}"]
        self.compose(*up, "--detach")
        # A container that was frozen has missed its checks, and --wait gives up at once on one that is unhealthy.
        unhealthy = ["ps", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}"]
        wait_until(lambda: not self.docker(*unhealthy, "--filter", "health=unhealthy"), "none is unhealthy", DEADLINE_S)
        self.compose(*up, "--wait")

    def down(self) -> None:
        """Remove the containers and their volumes; the images stay."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "1")

    def containers(self, service: str) -> list[str]:
        """Ids of the running containers of a service."""
        return self.compose("ps", "--quiet", "--status", "running", service).split()

    def worker_container(self, worker: str) -> str:
        """The container of a worker, whose name begins with its host name: the start of the container's id."""
        host = worker.partition("-")[0]
        (found,) = [one for one in self.containers("worker") if one.startswith(host)]
        return found

    def becomes(self, container: str, health: str) -> None:
        """Wait until the engine's own checks of a container say so."""
        inspect = ["inspect", "--format", "{{.State.Health.Status}}", container]
        wait_until(lambda: self.docker(*inspect).strip() == health, f"{container} is {health}", DEADLINE_S)

    def network(self) -> str:
        """The one network that all containers are on."""
        return f"{PROJECT}_default"

    def progress(self, roots: set[str], count: int) -> None:
        """Wait until these runs have passed `count` durable calls in all."""

        def passed() -> bool:
            effects = [effect for effect in self.ledger.read() if effect.note in roots]
            return sum(effect.identity.startswith(PASSED) for effect in effects) >= count

        wait_until(passed, f"{count} durable calls are passed", DEADLINE_S)

    def _run(self, command: list[str], deadline_s: float) -> str:
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self._environment, capture_output=True, text=True, timeout=deadline_s
        )
        if done.returncode != 0:
            raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout


def judge(effects: list[Effect], roots: set[str], expected: set[str], lost: int, *, zombies: bool = False) -> None:
    """Judge by the ledger alone what runs and their children did.

    Nothing is lost: each of `expected` happened in each of `roots`. What was passed never happens again; where workers
    were frozen or cut off (`zombies`), an execution that was superseded may end what it had begun. Everything else
    happens at most once more per worker that was lost (`lost`), and never twice in one execution. A keyed child has
    one run.
    """
    twice = repeated_fences(effects)
    assert not twice, f"done twice in one execution: {twice}"
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    passed: set[tuple[str, str]] = set()
    newest: dict[str, int] = {}
    children: dict[tuple[str, str], set[str]] = defaultdict(set)
    for effect in effects:
        root = effect.note
        if root not in roots:
            continue
        if effect.identity.startswith(PASSED):
            passed.add((root, effect.identity.removeprefix(PASSED)))
        else:
            is_superseded = effect.fence < newest.get(effect.run, 0)
            assert (root, effect.identity) not in passed or (zombies and is_superseded), f"{effect} was passed before"
            counts[root][effect.identity] += 1
            if effect.run != root:
                children[root, effect.identity].add(effect.run)
        newest[effect.run] = max(newest.get(effect.run, 0), effect.fence)
    assert counts.keys() == roots, f"left no trace: {roots - counts.keys()}"
    for root, count in counts.items():
        assert count.keys() == expected, f"{root}: {count.keys() ^ expected}"
        assert max(count.values()) <= 1 + lost, f"{root}: {count}"
    several = {place: runs for place, runs in children.items() if len(runs) > 1}
    assert not several, f"keyed children with several runs: {several}"
