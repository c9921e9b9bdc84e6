"""Random bodies as data, the task that executes them, and what their results must be.

A plan is the payload of a run: `{"name": ..., "parts": [...]}`. Names are unique in a play, so that an effect, a run or
a step is known by its name wherever it turns up.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast import Context, Retry, _scope, idempotency_keys, metadata, step, task, wait

MAX_ATTEMPTS = 3
Plan = dict[str, Any]
Part = dict[str, Any]


class World(Protocol):
    """What lies outside: it sees every effect."""

    def effect(self, run_id: str, name: str, fence: int) -> None:
        """A body does something."""

    def wait_asked(self, run_id: str, name: str) -> None:
        """A body asks for a wait, perhaps again."""

    def wait_over(self, run_id: str, name: str, seconds: float) -> None:
        """The wait of so many seconds has ended."""

    def token_made(self, token_id: str, name: str) -> None:
        """A body tells an outsider of its token."""


outside: list[World] = []
"""The world of the play that goes on."""


def _note(name: str) -> None:
    scope: Any = _scope.current()
    outside[-1].effect(scope.ctx.run.id, name, scope.fence)


# --- the task ----------------------------------------------------------------------------------------------------


@task(id="simulated", retry=Retry(max_attempts=MAX_ATTEMPTS, min_timeout="1s", max_timeout="4s"))
async def simulated(plan: dict[str, Any], ctx: Context) -> Any:
    """Executes a plan."""
    _note(f"enter {ctx.attempt.number}")
    return [await _do(part, ctx) for part in plan["parts"]]


async def _do(part: Part, ctx: Context) -> Any:
    return await _DOERS[part["do"]](part, ctx)


async def _effect(name: str, seconds: float) -> str:
    _note(name)
    if seconds:
        await asyncio.sleep(seconds)
    return f"{name} done"


async def _flaky_effect(name: str, times: int, attempt: int) -> str:
    _note(name)
    if attempt <= times:
        raise RuntimeError(f"{name} fails in attempt {attempt}")
    return f"{name} done"


async def _step(part: Part, ctx: Context) -> Any:
    return await step(part["name"], _effect, part["name"], part["seconds"])


async def _flaky(part: Part, ctx: Context) -> Any:
    name, attempt = part["name"], ctx.attempt.number

    async def perform() -> str:
        return await _flaky_effect(name, part["times"], attempt)

    return await step(name, perform)


async def _fail(part: Part, ctx: Context) -> Any:
    if ctx.attempt.number <= part["times"]:
        raise RuntimeError(f"fails in attempt {ctx.attempt.number}")
    return "no failure"


async def _wait(part: Part, ctx: Context) -> Any:
    outside[-1].wait_asked(ctx.run.id, part["name"])
    await wait.for_(seconds=part["seconds"])
    outside[-1].wait_over(ctx.run.id, part["name"], part["seconds"])
    return "waited"


async def _sleep(part: Part, ctx: Context) -> Any:
    await asyncio.sleep(part["seconds"])
    return "slept"


async def _child(part: Part, ctx: Context) -> Any:
    options: Any = {"idempotency_key": part["plan"]["name"]} if part["keyed"] else {}
    result = await simulated.trigger_and_wait(part["plan"], **options)
    return result.output if result.ok else "no result"


async def _shared(part: Part, ctx: Context) -> Any:
    """Several roots ask for one run."""
    key = idempotency_keys.create([part["plan"]["name"]], scope="global")
    result = await simulated.trigger_and_wait(part["plan"], idempotency_key=key)
    return result.output if result.ok else "no result"


async def _trigger(part: Part, ctx: Context) -> Any:
    options: Any = {"idempotency_key": part["plan"]["name"]} if part["keyed"] else {}
    await simulated.trigger(part["plan"], **options)
    return "triggered"


async def _batch(part: Part, ctx: Context) -> Any:
    results = await simulated.batch_trigger_and_wait(part["plans"])
    return [result.output if result.ok else "no result" for result in results]


async def _gather(part: Part, ctx: Context) -> Any:
    return list(await asyncio.gather(*(_do(one, ctx) for one in part["parts"])))


async def _race(part: Part, ctx: Context) -> Any:
    """The step's arguments hold who won: another winner at re-entry would be NonDeterminismError."""
    tasks = [asyncio.create_task(_do(one, ctx)) for one in part["parts"]]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for loser in pending:
        loser.cancel()
    if pending:
        await asyncio.wait(pending)
    winner = min(place for place, one in enumerate(tasks) if one in done)
    await step(part["name"], _won, part["name"], winner)
    return "raced"


async def _won(name: str, winner: int) -> None:
    _note(name)


async def _meta(part: Part, ctx: Context) -> Any:
    metadata.increment("count", part["by"])
    return "counted"


async def _token(part: Part, ctx: Context) -> Any:
    token = await wait.create_token(timeout=part["timeout"])
    outside[-1].token_made(token.id, part["name"])
    await wait.for_token(token)
    return "token settled"


_DOERS = {
    "step": _step,
    "flaky": _flaky,
    "fail": _fail,
    "wait": _wait,
    "sleep": _sleep,
    "child": _child,
    "shared": _shared,
    "trigger": _trigger,
    "batch": _batch,
    "gather": _gather,
    "race": _race,
    "meta": _meta,
    "token": _token,
}


# --- making plans ------------------------------------------------------------------------------------------------

_COMMON = ("step", "step", "step", "wait", "wait", "sleep", "meta", "meta")
_RARE = ("flaky", "fail", "child", "child", "trigger", "batch", "gather", "gather", "race", "token", "shared")


def plans(rng: random.Random, count: int) -> list[Plan]:
    """Plans of so many roots."""
    names = itertools.count()
    roots = [_plan(rng, names, "root", depth=2) for _ in range(count)]
    pool = [_plan(rng, names, "shared", depth=0) for _ in range(2)]
    _share(rng, [part for plan in roots for part in plan["parts"]], pool)
    return roots


def _share(rng: random.Random, parts: list[Part], pool: list[Plan]) -> None:
    """Have the `shared` parts ask for plans of the pool."""
    for part in parts:
        if part["do"] == "shared":
            part["plan"] = rng.choice(pool)
        below = [part["plan"]] if "plan" in part else part.get("plans", [])
        _share(rng, part.get("parts", []) + [one for plan in below for one in plan["parts"]], pool)


def _plan(rng: random.Random, names: Iterator[int], word: str, depth: int) -> Plan:
    return {"name": f"{word}{next(names)}", "parts": _parts(rng, names, depth, rng.randint(1, 4 if depth else 2))}


def _parts(rng: random.Random, names: Iterator[int], depth: int, count: int) -> list[Part]:
    return [_part(rng, names, depth) for _ in range(count)]


def _seconds(rng: random.Random) -> float:
    return rng.choice([0.0, 0.01, 0.05, 0.5, 2.0, 8.0])


def _part(rng: random.Random, names: Iterator[int], depth: int) -> Part:
    do = rng.choice(_COMMON + _RARE if depth else (*_COMMON, "flaky"))
    part: Part = {"do": do}
    if do in ("step", "flaky", "wait", "race", "token"):
        part["name"] = f"{do}{next(names)}"
    if do in ("step", "wait", "sleep"):
        part["seconds"] = _seconds(rng)
    if do in ("flaky", "fail"):
        part["times"] = rng.choice([1, 1, 1, 2, 2, MAX_ATTEMPTS])
    if do in ("child", "trigger"):
        part["keyed"] = rng.random() < 0.5
        part["plan"] = _plan(rng, names, do, depth - 1)
    if do == "batch":
        part["plans"] = [_plan(rng, names, "item", depth - 1) for _ in range(rng.randint(1, 3))]
    if do == "gather":
        part["parts"] = _parts(rng, names, depth - 1, rng.randint(2, 3))
    if do == "race":
        part["parts"] = [{"do": "wait", "name": f"wait{next(names)}", "seconds": _seconds(rng)}]
        child = {"do": "child", "keyed": rng.random() < 0.5, "plan": _plan(rng, names, "racer", 0)}
        part["parts"].insert(rng.randint(0, 1), child)
    if do == "meta":
        part["by"] = rng.randint(1, 9)
    if do == "token":
        part["timeout"] = rng.choice([1.0, 5.0, 20.0])
    return part


# --- what must come of them --------------------------------------------------------------------------------------


@dataclass
class Expected:
    """What must come of a plan that is not canceled and whose children are not."""

    attempts: int = 1
    fails: bool = False
    count: int = 0
    """Sum of its metadata increments."""
    steps: set[str] = field(default_factory=set)
    """Steps that end with success in a run that completes."""


def expected(plan: Plan) -> Expected:
    """What a run of the plan must come to."""
    found = Expected()
    _look(plan["parts"], found)
    return found


def _look(parts: list[Part], found: Expected) -> None:
    for part in parts:
        if part["do"] in ("flaky", "fail"):
            found.attempts = max(found.attempts, min(part["times"] + 1, MAX_ATTEMPTS))
            found.fails = found.fails or part["times"] >= MAX_ATTEMPTS
        if part["do"] in ("step", "flaky", "race"):
            found.steps.add(part["name"])
        if part["do"] == "meta":
            found.count += part["by"]
        if part["do"] == "gather":
            _look(part["parts"], found)


def all_plans(roots: list[Plan]) -> Iterator[Plan]:
    """Every plan, children included."""
    for plan in roots:
        yield plan
        yield from _below(plan["parts"])


def _below(parts: list[Part]) -> Iterator[Plan]:
    for part in parts:
        if "plan" in part:
            yield from all_plans([part["plan"]])
        yield from all_plans(part.get("plans", []))
        yield from _below(part.get("parts", []))


def is_right(plan: Plan, output: Any, disturbed: set[str]) -> bool:
    """Whether `output` may be the result of the plan; `disturbed` names plans of which a run was canceled."""
    return len(output) == len(plan["parts"]) and all(map(_checker(disturbed), plan["parts"], output))


def _checker(disturbed: set[str]) -> Any:
    def check(part: Part, got: Any) -> bool:
        do = part["do"]
        if do in ("step", "flaky"):
            return bool(got == f"{part['name']} done")
        if do in ("child", "shared"):
            return child(part["plan"], got)
        if do == "batch":
            return len(got) == len(part["plans"]) and all(map(child, part["plans"], got))
        if do == "gather":
            return len(got) == len(part["parts"]) and all(map(check, part["parts"], got))
        return bool(got == _WORDS[do])

    def child(plan: Plan, got: Any) -> bool:
        if got == "no result":
            return expected(plan).fails or plan["name"] in disturbed
        return not expected(plan).fails and is_right(plan, got, disturbed)

    return check


_WORDS = {
    "fail": "no failure",
    "wait": "waited",
    "sleep": "slept",
    "trigger": "triggered",
    "race": "raced",
    "meta": "counted",
    "token": "token settled",
}
