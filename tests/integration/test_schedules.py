"""Schedules with real processes. Cron is as fine as a minute, so tests write the next instant into the database."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from harness import schedule_tasks as tasks
from harness.processes import Deployment
from harness.runs import Runs
from harness.waiting import wait_until
from holdfast import Client, ids, sync
from holdfast.errors import InvalidArgumentError, NotFoundError, RequestError, TaskNotFoundError, WrongStatusError
from holdfast.run import Run
from holdfast.schedules import Schedule

TARGET = str(Path(tasks.__file__))
EACH_MINUTE = "* * * * *"
MINUTE = 60_000_000


class Site:
    """Schedulers that share a database, a worker, and what tests need of schedules."""

    def __init__(
        self, deploy: Callable[..., Deployment], url: str, folder: Path, schedulers: int = 1, **environment: str
    ) -> None:
        self.url = url
        self.gate = folder / "gate"
        environment[tasks.GATE_VARIABLE] = str(self.gate)
        self.deployments = [deploy(url, environment) for _ in range(schedulers)]
        self.schedulers = [one.start_scheduler() for one in self.deployments]
        self.first = self.deployments[0]
        addresses = ",".join(one.address for one in reversed(self.deployments))
        self.client = Client(addresses)
        self.first.start_worker(TARGET, environment={"HOLDFAST_ADDRESS": addresses})
        self.deployments[-1].wait_for_workers("hold")

    def look(self, schedule: Schedule) -> Schedule:
        """The schedule as it stands."""
        with self.client.use():
            return sync.schedules.retrieve(schedule.id)

    def create(self, task: str, **options: Any) -> Schedule:
        """A schedule that fires when the test says so."""
        with self.client.use():
            return sync.schedules.create(task, **{"cron": tasks.NEW_YEAR, **options})

    def declared(self, task: str) -> Schedule:
        """The schedule that a task declares."""
        with self.client.use():
            (found,) = [one for one in sync.schedules.iterate() if one.declared and one.task_id == task]
        return found

    def runs(self, schedule: Schedule) -> list[Run]:
        """The runs of a schedule in the order of their instants."""
        with self.client.use():
            listed = [run for run in sync.runs.iterate(task=schedule.task_id) if run.schedule_id == schedule.id]
            return [sync.runs.retrieve(run.id, full=True) for run in reversed(listed)]

    def instants(self, schedule: Schedule) -> list[int]:
        """For which instants there are runs, in microseconds."""
        return [micros(datetime.fromisoformat(run.payload["timestamp"])) for run in self.runs(schedule)]

    def set_next(self, instant: int, *schedules: Schedule) -> None:
        """Write the next instant of schedules."""
        for one in schedules:
            raw = ids.to_bytes(ids.SCHEDULE, one.id)
            if self.url.startswith("sqlite"):
                with sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=30) as connection:
                    connection.execute("UPDATE schedules SET next_at = ? WHERE id = ?", (instant, raw))
            else:
                with psycopg.connect(self.url) as connection:
                    connection.execute("UPDATE schedules SET next_at = %s WHERE id = %s", (instant, raw))

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_until(condition, what)


def micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def now() -> int:
    return time.time_ns() // 1000


@pytest.fixture
def site(deploy: Callable[..., Deployment], database_url: str, tmp_path: Path) -> Site:
    return Site(deploy, database_url, tmp_path)


def test_a_declared_schedule_fires_and_tells_what_it_is_for(site: Site) -> None:
    schedule = site.declared("report")
    assert (schedule.cron, schedule.timezone, schedule.misfire, schedule.overlap) == (
        tasks.NEW_YEAR, "Europe/Zurich", "all", "skip",
    )  # fmt: skip
    zurich = ZoneInfo("Europe/Zurich")
    this_year = datetime.now(zurich).year
    assert schedule.next_at == datetime(this_year + 1, 1, 1, tzinfo=zurich)
    instant = now() + 500_000
    site.set_next(instant, schedule)
    (run,) = site.until(lambda: site.runs(schedule), "it fires")
    done = Runs(site.first).completed(run.id)
    assert datetime.fromisoformat(done.output) == datetime.fromtimestamp(instant / 1e6, UTC)
    assert run.payload["schedule_id"] == schedule.id
    assert run.payload["timezone"] == "Europe/Zurich"
    assert [datetime.fromisoformat(one).astimezone(zurich).year for one in run.payload["upcoming"]] == [
        this_year + years for years in range(1, 11)
    ]
    later = site.look(schedule)
    assert (later.last_run_id, later.next_at, later.skipped) == (run.id, schedule.next_at, 0)
    assert run.created_at is not None
    assert run.created_at >= datetime.fromtimestamp(instant / 1e6, UTC)  # not before its instant


def test_a_task_without_a_payload_can_be_scheduled(site: Site) -> None:
    declared, mine = site.declared("sweep"), site.create("sweep")
    site.set_next(now(), declared, mine)
    for schedule in (declared, mine):
        (run,) = site.until(lambda one=schedule: site.runs(one), "it fires")
        assert Runs(site.first).completed(run.id).output == "swept"


def test_the_runs_have_the_options_of_the_schedule(site: Site) -> None:
    options = {"tags": ("a",), "max_attempts": 7, "metadata": {"n": 1}, "timeout": timedelta(hours=1)}
    schedule = site.create("tick", external_id="customer-7", **options)
    assert schedule.options == options
    site.set_next(now(), schedule)
    (run,) = site.until(lambda: site.runs(schedule), "it fires")
    done = Runs(site.first).completed(run.id)
    assert (done.output, done.tags, done.max_attempts, done.metadata) == ("customer-7", ("a",), 7, {"n": 1})


# --- missed instants --------------------------------------------------------------------------------------------------
@pytest.fixture
def strict(deploy: Callable[..., Deployment], database_url: str, tmp_path: Path) -> Site:
    """Here whatever is late was missed."""
    return Site(deploy, database_url, tmp_path, HOLDFAST_MISFIRE_GRACE="0.0001")


def test_a_killed_scheduler_makes_up_for_what_it_missed_as_each_policy_says(strict: Site) -> None:
    site = strict
    made = {name: site.create("tick", cron=EACH_MINUTE, misfire=name) for name in ("skip", "latest", "all")}
    site.schedulers[0].kill()
    first = now() // MINUTE * MINUTE - 5 * MINUTE
    site.set_next(first, *made.values())
    site.first.start_scheduler(name="scheduler-again")
    wait = (lambda: all(one.next_at > datetime.now(UTC) for one in map(site.look, made.values())), "all have moved on")
    wait_until(*wait)
    # Another minute may begin at any time; what was missed at the start is not changed by it.
    caught_up = site.instants(made["all"])
    assert caught_up == [first + n * MINUTE for n in range(len(caught_up))]
    assert len(caught_up) >= 6
    latest = site.instants(made["latest"])
    assert latest[0] in caught_up[-2:]
    assert site.look(made["latest"]).skipped >= 5
    assert site.instants(made["skip"]) == []
    assert site.look(made["skip"]).skipped >= 6
    assert "misfire_grace" in site.look(made["skip"]).last_skip_reason
    assert site.look(made["all"]).skipped == 0


def test_a_short_restart_is_no_misfire(deploy: Callable[..., Deployment], database_url: str, tmp_path: Path) -> None:
    site = Site(deploy, database_url, tmp_path, HOLDFAST_MISFIRE_GRACE="600")  # a busy machine takes long to restart it
    schedule = site.create("tick", misfire="skip")
    site.schedulers[0].kill()
    instant = now() + 1_000
    site.set_next(instant, schedule)
    wait_until(lambda: now() > instant, "the instant has passed")
    site.first.start_scheduler(name="scheduler-again")
    site.until(lambda: site.runs(schedule), "it fires")
    assert site.instants(schedule) == [instant]
    assert site.look(schedule).skipped == 0


def test_a_kill_around_an_instant_neither_loses_nor_doubles_it(site: Site) -> None:
    schedule = site.create("tick")
    fired: list[int] = []
    for turn, delay_us in enumerate((0, 5_000, 40_000)):
        instant = now() + 1_200_000
        site.set_next(instant, schedule)
        wait_until(lambda at=instant + delay_us: now() >= at, "the instant has come")
        site.schedulers[-1].kill()
        site.schedulers.append(site.first.start_scheduler(name=f"scheduler-{turn}"))
        fired.append(instant)
        site.until(lambda count=turn: len(site.runs(schedule)) > count, "it has fired")
        assert site.instants(schedule) == fired


# --- overlapping runs -------------------------------------------------------------------------------------------------
def test_what_happens_when_the_previous_run_has_not_ended(site: Site) -> None:
    made = {name: site.create("hold", overlap=name) for name in ("allow", "skip", "queue", "cancel_previous")}
    runs = Runs(site.first)
    site.set_next(now(), *made.values())
    firsts = {}
    for name, schedule in made.items():
        (run,) = site.until(lambda one=schedule: site.runs(one), f"{name} fires")
        firsts[name] = runs.until(run.id, "EXECUTING").id
    site.set_next(now(), *made.values())
    for schedule in made.values():
        # Each has dealt with the second instant when it looks to the new year again.
        site.until(lambda one=schedule: site.look(one).next_at.month == 1, "the second instant is dealt with")

    def statuses(name: str) -> list[str]:
        return [run.status for run in site.runs(made[name])]

    site.until(lambda: statuses("allow") == ["EXECUTING", "EXECUTING"], "both run")
    assert statuses("skip") == ["EXECUTING"]
    assert site.look(made["skip"]).skipped == 1
    assert statuses("queue") == ["EXECUTING"]
    assert len(site.look(made["queue"]).waiting) == 1
    site.until(lambda: statuses("cancel_previous") == ["CANCELED", "EXECUTING"], "the first is canceled")
    site.gate.touch()
    site.until(lambda: statuses("queue") == ["COMPLETED", "COMPLETED"], "the second runs after the first")
    first, second = site.runs(made["queue"])
    assert first.ended_at is not None
    assert second.created_at is not None
    assert second.created_at == first.ended_at  # in one commit
    assert site.look(made["queue"]).waiting == ()


# --- several schedulers -----------------------------------------------------------------------------------------------
def test_two_schedulers_fire_each_instant_once_though_one_is_killed(
    deploy: Callable[..., Deployment], postgres_url: str, tmp_path: Path
) -> None:
    site = Site(deploy, postgres_url, tmp_path, schedulers=2)
    made = [site.create("tick") for _ in range(3)]
    fired: list[int] = []
    for turn in range(4):
        instant = now() + 1_000_000
        site.set_next(instant, *made)
        fired.append(instant)
        if turn == 2:
            wait_until(lambda at=instant: now() >= at, "the instant has come")
            site.schedulers[0].kill()
        for schedule in made:
            site.until(lambda one=schedule: site.look(one).next_at.month == 1, "it has fired")
    for schedule in made:
        assert site.instants(schedule) == fired
        assert site.look(schedule).skipped == 0


# --- keeping schedules ------------------------------------------------------------------------------------------------
def test_a_user_keeps_schedules(site: Site) -> None:
    with site.client.use():
        made = sync.schedules.create(
            "tick", cron="0 3 * * *", timezone="Europe/Zurich", deduplication_key="k", external_id="x", overlap="queue"
        )
        assert made.active
        assert made.next_at is not None
        assert made.next_at.astimezone(ZoneInfo("Europe/Zurich")).hour == 3
        again = sync.schedules.create("tick", cron="0 4 * * *", deduplication_key="k")
        assert (again.id, again.cron, again.timezone, again.overlap) == (made.id, "0 4 * * *", "UTC", "allow")
        assert (again.external_id, again.deduplication_key) == ("", "k")
        changed = sync.schedules.update(made, timezone="Asia/Tokyo", tags=["a"], misfire="skip")
        assert (changed.cron, changed.timezone, changed.misfire) == ("0 4 * * *", "Asia/Tokyo", "skip")
        assert changed.options == {"tags": ("a",)}
        assert sync.schedules.update(made, external_id="y").options == {"tags": ("a",)}
        off = sync.schedules.deactivate(made.id)
        assert (off.active, off.next_at) == (False, None)
        assert sync.schedules.create("tick", cron="0 4 * * *", deduplication_key="k").active is False
        assert sync.schedules.activate(made.id).next_at is not None
        other = sync.schedules.create("tick", cron="0 4 * * *")
        page = sync.schedules.list(limit=1)
        rest = sync.schedules.list(limit=1000, page_token=page.next_page_token)
        assert [one.id for one in (*page, *rest)][-2:] == [made.id, other.id]
        assert [one.id for one in sync.schedules.iterate(limit=1)] == [one.id for one in (*page, *rest)]
        sync.schedules.delete(other)
        with pytest.raises(NotFoundError, match="there is no schedule"):
            sync.schedules.retrieve(other)
        declared = site.declared("report")
        with pytest.raises(WrongStatusError, match="declared in code, beside task 'report'"):
            sync.schedules.update(declared, cron="0 1 * * *")
        with pytest.raises(WrongStatusError, match="deactivate it"):
            sync.schedules.delete(declared)
        assert sync.schedules.deactivate(declared).active is False


def test_what_the_scheduler_refuses_is_named(site: Site) -> None:
    def refused(**options: Any) -> str:
        with pytest.raises((RequestError, InvalidArgumentError)) as caught:
            site.create(options.pop("task", "tick"), **options)
        return str(caught.value)

    assert "schedule.cron: '61 3 * * *': bad minute" in refused(cron="61 3 * * *")
    assert "did you mean Europe/Zurich" in refused(timezone="Europe/Zürich")
    both = refused(cron="61 3 * * *", timezone="Mars/Olympus")
    assert "schedule.cron: " in both
    assert "schedule.timezone: 'Mars/Olympus' is not an IANA time zone" in both
    assert "has 6 fields; write five" in refused(cron="0 0 3 * * *")
    with site.client.use(), pytest.raises(TaskNotFoundError, match="did you mean 'tick'"):
        sync.schedules.create("tickk", cron=EACH_MINUTE)


def test_a_worker_whose_task_declares_nonsense_says_so(site: Site) -> None:
    source = site.first.folder / "nonsense.py"
    source.write_text(
        "from holdfast import schedules\n"
        "@schedules.task(id='nonsense', cron='99 3 * * *')\n"
        "async def nonsense() -> None: ...\n"
    )
    worker = site.first.start_worker(str(source), name="nonsense")
    assert worker.wait() != 0
    assert "tasks.schedule.cron: of task 'nonsense': '99 3 * * *': bad minute" in worker.log_text()


def test_the_command_line_keeps_schedules(deploy: Callable[..., Deployment], sqlite_url: str, tmp_path: Path) -> None:
    site = Site(deploy, sqlite_url, tmp_path)

    def holdfast(*arguments: str, code: int = 0) -> str:
        done = site.first.holdfast("schedules", *arguments)
        assert done.returncode == code, done.stderr
        return done.stdout or done.stderr

    create = ("create", "tick", "0 3 * * *", "--timezone", "Europe/Zurich", "--key", "k", "--tag", "a")
    made = json.loads(holdfast(*create, "--json"))
    assert (made["task_id"], made["timezone"], made["deduplication_key"]) == ("tick", "Europe/Zurich", "k")
    assert (made["options"], made["active"]) == ({"tags": ["a"]}, True)
    assert [json.loads(line)["id"] for line in holdfast("list", "--json").splitlines()][-1] == made["id"]
    listed = holdfast("list")
    assert made["id"] in listed
    assert "Europe/Zurich" in listed
    assert "misfire latest, overlap skip" in holdfast(*create, "--overlap", "skip")
    assert "not active" in holdfast("deactivate", made["id"])
    assert "not active" not in holdfast("activate", made["id"])
    assert "0 3 * * *  (Europe/Zurich)" in holdfast("show", made["id"])
    assert holdfast("delete", made["id"]) == ""
    assert "there is no schedule" in holdfast("show", made["id"], code=3)
    assert "bad minute" in holdfast("create", "tick", "99 3 * * *", code=2)
    assert "'never' is none of" in holdfast("create", "tick", "0 3 * * *", "--misfire", "never", code=2)
    assert "no worker has registered a task 'tack'" in holdfast("create", "tack", "0 3 * * *", code=3)
