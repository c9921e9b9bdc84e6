"""Random bodies: killed at every checkpoint they have the same effects and the same result as uninterrupted ones, and a
body whose durable calls changed gets its own records or NonDeterminismError, never another call's."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from harness.executor_end import Scheduler, child, kind_of, output, step, wait
from holdfast.errors import StepFailedError
from holdfast.v1 import run_pb2 as run
from holdfast.v1 import worker_service_pb2 as wire
from holdfast_worker.gate import GatedEventLoop

MAX_KILLS = 12
"""Reports at which one body is killed, each in every way; longer bodies are killed at a sample."""


@dataclass
class Node:
    """A piece of a body. `name` is unique in its program."""

    kind: str
    name: str = ""
    parts: list[Node] = field(default_factory=list)

    def __str__(self) -> str:
        inside = ", ".join(str(part) for part in self.parts)
        return f"{self.kind}{self.name and ':' + self.name}" + (f"({inside})" if inside else "")


LEAVES = ("step", "failing", "child", "keyed", "wait", "same-name")
FORKS = ("gather", "group", "as_completed", "first", "first_failure", "semaphore", "timeout", "wait_for", "shield")


@st.composite
def programs(draw: st.DrawFn, depth: int = 3) -> Node:
    counter = iter(range(10_000))

    def node(level: int) -> Node:
        kinds = LEAVES if level == 0 else LEAVES + FORKS + ("sequence",)
        kind = draw(st.sampled_from(kinds))
        if kind in LEAVES:
            return Node(kind, f"{kind[0]}{next(counter)}")
        count = 1 if kind in ("timeout", "wait_for", "shield") else draw(st.integers(1, 3))
        return Node(kind, "", [node(level - 1) for _ in range(count)])

    return Node("sequence", "", [node(depth - 1) for _ in range(draw(st.integers(1, 4)))])


class Interpreter:
    """Runs a program as a body. `effects` is the outside world."""

    def __init__(self, program: Node) -> None:
        self.program = program
        self.effects: list[str] = []

    async def body(self) -> Any:
        return await self.run(self.program)

    async def run(self, node: Node) -> Any:
        return await getattr(self, "_" + node.kind.replace("-", "_"))(node)

    def tasks(self, node: Node) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.run(part), name=str(number)) for number, part in enumerate(node.parts)]

    async def _sequence(self, node: Node) -> Any:
        return [await self.run(part) for part in node.parts]

    async def _step(self, node: Node) -> Any:
        got = await step(node.name, self._effect, node.name)
        return self._checked(got, f"did {node.name}")

    async def _same_name(self, node: Node) -> Any:
        """Told apart by occurrence and arguments only."""
        got = await step("same", self._effect, node.name)
        return self._checked(got, f"did {node.name}")

    async def _failing(self, node: Node) -> Any:
        try:
            await step(f"failing {node.name}", self._fail, node.name)
        except StepFailedError as error:
            return self._checked(error.message, f"failed {node.name}")
        raise AssertionError("a failing step did not fail")

    async def _child(self, node: Node) -> Any:
        return self._checked(await child(node.name, node.name), f"answer to {node.name}")

    async def _keyed(self, node: Node) -> Any:
        return self._checked(await child(node.name, key="k"), f"answer to {node.name}")

    async def _wait(self, node: Node) -> Any:
        await wait(node.name)
        return node.name

    async def _gather(self, node: Node) -> Any:
        return await asyncio.gather(*(self.run(part) for part in node.parts))

    async def _group(self, node: Node) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.run(part)) for part in node.parts]
        return [task.result() for task in tasks]

    async def _as_completed(self, node: Node) -> Any:
        return [await done for done in asyncio.as_completed([self.run(part) for part in node.parts])]

    async def _first(self, node: Node) -> Any:
        tasks = self.tasks(node)
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        return sorted((task.get_name(), task.result()) for task in done)

    async def _first_failure(self, node: Node) -> Any:
        """The first branch to end fails the group, which cancels the others."""

        async def failing(part: Node) -> None:
            raise LookupError(repr(await self.run(part)))

        try:
            async with asyncio.TaskGroup() as group:
                for part in node.parts:
                    group.create_task(failing(part))
        except ExceptionGroup as errors:
            return [str(error) for error in errors.exceptions]

    async def _semaphore(self, node: Node) -> Any:
        semaphore = asyncio.Semaphore(1)

        async def one(part: Node) -> Any:
            async with semaphore:
                return await self.run(part)

        return await asyncio.gather(*(one(part) for part in node.parts))

    async def _timeout(self, node: Node) -> Any:
        async with asyncio.timeout(3600):
            return await self.run(node.parts[0])

    async def _wait_for(self, node: Node) -> Any:
        return await asyncio.wait_for(self.run(node.parts[0]), 3600)

    async def _shield(self, node: Node) -> Any:
        return await asyncio.shield(self.run(node.parts[0]))

    def _effect(self, name: str) -> str:
        self.effects.append(name)
        return f"did {name}"

    def _fail(self, name: str) -> str:
        self.effects.append(name)
        raise ValueError(f"failed {name}")

    @staticmethod
    def _checked(got: Any, expected: str) -> str:
        if got != expected:
            pytest.fail(f"the record of another call was handed out: {got!r} instead of {expected!r}")
        return expected


def execute(body: Callable[[], Any], **how: Any) -> tuple[Scheduler, wire.Report]:
    loop = GatedEventLoop()
    try:
        scheduler = Scheduler(loop, body, seed=how.pop("seed", 0))
        for name, value in how.items():
            setattr(scheduler, name, value)
        scheduler.start()
        return scheduler, loop.run_until_complete(scheduler.to_end())
    finally:
        loop.close()


class KilledAndWatched(Scheduler):
    """Notes which steps were committed when the executor was killed."""

    world: list[str]
    committed_then: tuple[int, set[str]] | None = None

    def start(self, **fields: Any) -> None:
        if self.fence:
            steps = {c.name for c in self.checkpoints.values() if c.kind == run.CHECKPOINT_KIND_STEP}
            self.committed_then = (len(self.world), steps)
        super().start(**fields)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(program=programs(), seed=st.integers(0, 3), chance=st.randoms(use_true_random=False))
def test_killed_at_every_checkpoint_it_has_the_same_effects_and_result(
    program: Node, seed: int, chance: random.Random
) -> None:
    note(str(program))
    plain = Interpreter(program)
    scheduler, end = execute(plain.body, seed=seed)
    expected = output(end)
    assert all(count == 1 for count in Counter(plain.effects).values())
    kills = range(1, scheduler.commits + 1)
    if len(kills) > MAX_KILLS:
        kills = chance.sample(kills, MAX_KILLS)  # type: ignore[assignment]
    for number in kills:
        for before_commit in (True, False):
            again = Interpreter(program)
            loop = GatedEventLoop()
            killed = KilledAndWatched(loop, again.body, seed=seed)
            killed.world = again.effects
            killed.kill_after, killed.kill_before_commit = number, before_commit
            killed.start()
            result = loop.run_until_complete(killed.to_end())
            loop.close()
            assert kind_of(result) == "completed", (number, before_commit, result)
            assert output(result) == expected, (number, before_commit)
            assert set(again.effects) == set(plain.effects)
            assert max(Counter(again.effects).values(), default=0) <= 2
            if killed.committed_then is not None:
                effects, steps = killed.committed_then
                assert not steps.intersection(again.effects[effects:]), "a committed step was done again"


def changed(program: Node, chance: random.Random) -> Node:
    """`program` with one piece removed, added, renamed or moved."""
    copy = _copy(program)
    holders = [node for node in _walk(copy) if len(node.parts) > 0]
    holder = chance.choice(holders)
    place = chance.randrange(len(holder.parts))
    action = chance.choice(["remove", "add", "rename", "swap", "kind"])
    part = holder.parts[place]
    if action == "remove" and len(holder.parts) > 1:
        del holder.parts[place]
    elif action == "add" and holder.kind not in ("timeout", "wait_for", "shield"):
        holder.parts.insert(place, Node(chance.choice(LEAVES), "new"))
    elif action == "swap" and len(holder.parts) > 1:
        other = chance.randrange(len(holder.parts))
        holder.parts[place], holder.parts[other] = holder.parts[other], holder.parts[place]
    elif action == "kind" and not part.parts:
        part.kind = chance.choice(LEAVES)
    elif not part.parts:
        part.name += "x"
    return copy


def _copy(node: Node) -> Node:
    return Node(node.kind, node.name, [_copy(part) for part in node.parts])


def _walk(node: Node) -> list[Node]:
    return [node, *(found for part in node.parts for found in _walk(part))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(program=programs(), seed=st.integers(0, 3), chance=st.randoms(use_true_random=False))
def test_changed_body_gets_its_own_records_or_an_error(program: Node, seed: int, chance: random.Random) -> None:
    other = changed(program, chance)
    note(f"{program} became {other}")
    total = execute(Interpreter(program).body, seed=seed)[0].commits
    first, second = Interpreter(program), Interpreter(other)
    entries = iter([first.body])

    async def body() -> Any:
        return await next(entries, second.body)()

    _, end = execute(body, seed=seed, kill_after=chance.randint(1, total), kill_before_commit=chance.random() < 0.5)
    assert kind_of(end) in ("completed", "NON_DETERMINISM"), end
    # Within `second` every answer was compared with what its own call would get.
    if str(other) == str(program):
        assert kind_of(end) == "completed"
