"""The command `holdfast` as a user meets it: real processes, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from harness.processes import Deployment, ServerProcess
from harness.waiting import wait_until

TASKS = '''
import asyncio
from pydantic import BaseModel
from holdfast import AbortTaskRunError, metadata, task, wait

class Greeting(BaseModel):
    name: str

@task(id="greet")
async def greet(payload: Greeting) -> str:
    """Greet somebody."""
    metadata.set("greeted", payload.name)
    await wait.for_(seconds=0.05)
    return f"hello {payload.name}"

@task(id="give-up")
def give_up() -> None:
    raise AbortTaskRunError("no way")

@task(id="wait-long")
async def wait_long() -> None:
    await wait.for_(hours=1)
'''


@pytest.fixture
def site(deploy: Callable[..., Deployment], sqlite_url: str) -> Deployment:
    """A deployment without processes, with a file of tasks in its folder."""
    deployment: Deployment = deploy(sqlite_url)
    (deployment.folder / "shop.py").write_text(TASKS)
    return deployment


@pytest.fixture
def running(site: Deployment) -> Deployment:
    """The same with a scheduler and a worker."""
    site.start_scheduler()
    site.start_worker("shop.py")
    site.wait_for_workers("greet")
    return site


def assert_one_line_error(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert part in lines[0], lines[0]


def test_version_and_help_need_no_scheduler(site: Deployment) -> None:
    assert site.holdfast("--version").stdout.startswith("holdfast ")
    for arguments in ((), ("--help",), ("runs",), ("runs", "--help"), ("worker", "--help")):
        done = site.holdfast(*arguments)
        assert done.returncode == 0
        assert "Usage: holdfast" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("nonsense",), "nonsense"),
        (("runs", "list", "--nope"), "--nope"),
        (("trigger",), "TASK"),
        (("trigger", "greet", "{bad"), "not JSON"),
        (("trigger", "greet", "NaN"), "NaN"),
        (("trigger", "greet", "@missing.json"), "missing.json"),
        (("trigger", "greet", "--address", "http://x"), "HOST:PORT"),
        (("runs", "list", "--status", "BROKEN"), "COMPLETED"),
        (("worker", "shop.py", "--slots", "0"), "slots"),
        (("scheduler", "--database", "mysql://x/y"), "mysql"),
        (("migrate", "--database", "mysql://x/y"), "mysql"),
        (("dev", "shop.py", "--database", "mysql://x/y"), "mysql"),
        (("scheduler", "--listen", "here"), "HOST:PORT"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(site: Deployment, arguments: tuple[str, ...], part: str) -> None:
    assert_one_line_error(site.holdfast(*arguments), 2, part)


def test_a_worker_with_a_wrong_key_is_exit_code_5(site: Deployment) -> None:
    site.start("scheduler", "scheduler", "--listen", site.address, environment={"HOLDFAST_API_KEY": "right"})
    done = site.holdfast("worker", "shop.py")
    assert done.returncode == 5, done.stderr
    assert f"error: the scheduler at {site.address} refused this worker" in done.stderr.splitlines()[-1]


def test_no_scheduler_is_exit_code_4(site: Deployment) -> None:
    assert_one_line_error(site.holdfast("runs", "list"), 4, site.address, "holdfast dev", "--address")


def test_health_takes_the_usual_port_when_none_is_named(site: Deployment) -> None:
    for address in ("127.0.0.9", "127.0.0.9,"):
        assert_one_line_error(site.holdfast("health", "--address", address), 4, "127.0.0.9:4653 ")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--database", "sqlite:////dev/null/x.db"), "/dev/null/x.db"),
        (("--database", "postgresql://nobody@127.0.0.1:1/x"), "127.0.0.1"),
        (("--listen", "0.0.0.0:0"), "--insecure"),
    ],
)
def test_a_scheduler_that_cannot_start_is_exit_code_6(site: Deployment, options: tuple[str, ...], part: str) -> None:
    assert_one_line_error(site.holdfast("scheduler", *options), 6, part)


def test_a_taken_port_and_a_database_in_use_are_exit_code_6(site: Deployment) -> None:
    site.start_scheduler()
    taken = site.holdfast("scheduler", "--database", "other.sqlite3", "--listen", site.address)
    assert_one_line_error(taken, 6, str(site.port))
    in_use = site.holdfast("scheduler", "--database", site.database_url, "--listen", "127.0.0.1:0")
    assert_one_line_error(in_use, 6, "holdfast.sqlite3")
    assert_one_line_error(site.holdfast("dev", "shop.py", "--listen", site.address), 6, str(site.port))


def test_trigger_waits_and_prints_the_output(running: Deployment) -> None:
    done = running.holdfast("trigger", "greet", '{"name": "Ada"}', "--wait")
    assert (done.returncode, done.stdout) == (0, '"hello Ada"\n'), done.stderr
    failed = running.holdfast("trigger", "give-up", "--wait")
    assert_one_line_error(failed, 1, "FAILED", "no way")
    assert failed.stderr.startswith("error: run_")


def test_a_run_is_replayed_with_its_payload_or_another(running: Deployment) -> None:
    run_id = running.holdfast("trigger", "greet", '{"name": "Ada"}').stdout.strip()
    same = running.holdfast("runs", "replay", run_id)
    other = running.holdfast("runs", "replay", run_id, '{"name": "Grace"}', "--json")
    for replayed, name in ((same.stdout.strip(), "Ada"), (json.loads(other.stdout)["id"], "Grace")):
        assert replayed != run_id
        assert running.holdfast("runs", "watch", replayed).returncode == 0
        shown = json.loads(running.holdfast("runs", "show", replayed, "--json").stdout)
        assert shown["output"] == f"hello {name}"
    logged = running.holdfast("runs", "logs", run_id)
    assert (logged.returncode, logged.stdout, logged.stderr) == (0, "", "nothing logged so far\n")


def test_the_help_names_the_default_database(site: Deployment) -> None:
    for command in ("scheduler", "migrate", "dev"):
        shown = " ".join(site.holdfast(command, "--help").stdout.split())
        assert "./holdfast.db" in shown
        assert "./.holdfast/holdfast.sqlite3" in shown


def test_trigger_reads_files_and_standard_input_and_knows_keys(running: Deployment) -> None:
    (running.folder / "payload.json").write_text('{"name": "Grace"}')
    first = running.holdfast("trigger", "greet", "@payload.json", "--key", "a", "--key", "b", "--json")
    again = running.holdfast("trigger", "greet", "@payload.json", "--key", "a", "--key", "b", "--json")
    other = running.holdfast("trigger", "greet", "@payload.json", "--key", "a-b", "--json")
    handles = [json.loads(done.stdout) for done in (first, again, other)]
    assert handles[0]["id"] == handles[1]["id"] != handles[2]["id"]
    assert [handle["is_cached"] for handle in handles] == [False, True, False]


def test_unknown_task_is_exit_code_3_with_near_names(running: Deployment) -> None:
    assert_one_line_error(running.holdfast("trigger", "gret", "{}"), 3, "gret", "greet", "namespace 'default'")


def test_a_key_hit_with_another_payload_is_told_once(running: Deployment) -> None:
    first = running.holdfast("trigger", "greet", '{"name": "Ada"}', "--key", "k").stdout
    again = running.holdfast("trigger", "greet", '{"name": "Grace"}', "--key", "k")
    assert again.stdout == first
    assert_one_line_error(again, 0, "warning: run_", "another payload")


def test_a_failed_run_shows_its_error_once_beside_its_stack(running: Deployment) -> None:
    run_id = running.holdfast("trigger", "give-up").stdout.strip()
    assert running.holdfast("runs", "watch", run_id).returncode == 1
    shown = running.holdfast("runs", "show", run_id).stdout
    assert "as above" in shown
    assert sum("no way" in line for line in shown.split("Traceback")[0].splitlines()) == 1


def test_unknown_and_malformed_run_ids(running: Deployment) -> None:
    unknown = "run_" + "0" * 26
    for command in ("show", "cancel", "watch"):
        assert_one_line_error(running.holdfast("runs", command, unknown), 3, unknown)
    assert_one_line_error(running.holdfast("runs", "show", "nonsense"), 2, "nonsense")


def test_runs_are_listed_shown_watched_and_canceled(running: Deployment) -> None:
    run_id = running.holdfast("trigger", "wait-long", "--tag", "slow").stdout.strip()

    def waiting() -> bool:
        shown = json.loads(running.holdfast("runs", "show", run_id, "--json").stdout)
        return bool(shown["status"] == "WAITING")

    wait_until(waiting, "the run waits")
    listed = running.holdfast("runs", "list", "--tag", "slow", "--json")
    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == [run_id]
    table = running.holdfast("runs", "list").stdout
    assert run_id in table
    assert "wait-long" in table
    shown = running.holdfast("runs", "show", run_id).stdout
    assert "WAITING" in shown
    assert "WAIT" in shown.split("checkpoint", 1)[1]

    watcher = running.start("watch", "runs", "watch", run_id)
    wait_until(lambda: "WAITING" in watcher.log_text(), "the watcher shows the run")
    canceled = running.holdfast("runs", "cancel", run_id, "--json")
    assert json.loads(canceled.stdout)["status"] == "CANCELED"
    assert watcher.wait() == 1
    assert "CANCELED" in watcher.log_text()
    assert running.holdfast("runs", "cancel", run_id).stdout == f"{run_id}  CANCELED\n"


def test_queues_are_listed_paused_and_resumed(running: Deployment) -> None:
    listed = running.holdfast("queues", "list")
    assert listed.returncode == 0
    assert listed.stdout.split()[:4] == ["queue", "limits", "waiting", "executing"]
    name = json.loads(running.holdfast("queues", "list", "--json").stdout.splitlines()[0])["name"]
    paused = running.holdfast("queues", "pause", name, "--json")
    assert json.loads(paused.stdout)["paused"]
    assert "paused" in running.holdfast("queues", "list").stdout
    resumed = running.holdfast("queues", "resume", name)
    assert (resumed.returncode, "paused" in resumed.stdout) == (0, False)
    unknown = running.holdfast("queues", "pause", f"{name}x")
    assert (unknown.returncode, unknown.stdout) == (3, "")
    assert f"did you mean {name!r}" in unknown.stderr


def test_a_reader_that_leaves_is_no_error(running: Deployment) -> None:
    script = f'"{running.python}" -m holdfast runs list --json | true; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], env=running.environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_dev_runs_both_and_one_interrupt_ends_both_cleanly(site: Deployment) -> None:
    dev = site.start("dev", "dev", "shop.py", "--listen", site.address)
    site.wait_for_scheduler(dev)
    site.wait_for_workers("greet")
    family = dev.family()
    assert len(family) >= 4  # dev, scheduler, supervisor, executor
    assert (site.folder / ".holdfast" / "holdfast.sqlite3").exists()
    done = site.holdfast("trigger", "greet", '{"name": "Ada"}', "--wait")
    assert done.stdout == '"hello Ada"\n', done.stderr
    assert dev.stop(signal.SIGINT) == 0
    assert "Traceback" not in dev.log_text()
    assert not [process for process in family if process.is_running()]


def test_dev_ends_with_its_worker_and_says_why(site: Deployment) -> None:
    (site.folder / "broken.py").write_text("raise RuntimeError('broken on purpose')\n")
    dev = site.start("dev", "dev", "broken.py", "--listen", site.address)
    assert dev.wait() == 2
    assert "broken on purpose" in dev.log_text()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", site.port))  # the scheduler has left


def dev_pid(dev: ServerProcess, name: str, count: int = 1) -> int:
    """The process id that `holdfast dev` printed when it started `name` for the `count`th time."""
    found: list[str] = []

    def started() -> bool:
        found[:] = re.findall(rf"holdfast dev: {name} started, pid (\d+)", dev.log_text())
        return len(found) >= count

    wait_until(started, f"dev starts {name} {count} times")
    return int(found[count - 1])


def test_dev_starts_a_killed_child_again_and_goes_on(site: Deployment) -> None:
    dev = site.start("dev", "dev", "shop.py", "--listen", site.address)
    wait_until(lambda: "holdfast dev: ready at" in dev.log_text(), "dev says that it is ready")
    assert "give-up, greet, wait-long; try: holdfast trigger give-up" in dev.log_text()
    run_id = site.holdfast("trigger", "wait-long").stdout.strip()
    for name in ("worker", "scheduler"):
        first = dev_pid(dev, name)
        os.kill(first, signal.SIGKILL)
        assert dev_pid(dev, name, 2) != first
        assert f"{name}, pid {first}, was ended by SIGKILL; starting it again in" in dev.log_text()
        site.wait_for_scheduler(dev)
        site.wait_for_workers("greet")
    done = site.holdfast("trigger", "greet", '{"name": "Ada"}', "--wait")
    assert done.stdout == '"hello Ada"\n', done.stderr
    assert run_id in site.holdfast("runs", "list").stdout
    assert dev.stop(signal.SIGINT) == 0


def test_children_of_a_killed_dev_end_with_it(site: Deployment) -> None:
    dev = site.start("dev", "dev", "shop.py", "--listen", site.address)
    wait_until(lambda: "holdfast dev: ready at" in dev.log_text(), "dev says that it is ready")
    family = dev.family()
    assert len(family) >= 4
    dev.kill_leader()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    again = site.start("again", "dev", "shop.py", "--listen", site.address)
    wait_until(lambda: "holdfast dev: ready at" in again.log_text(), "the next dev finds port and database free")
    assert again.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("command", ["dev", "worker"])
@pytest.mark.parametrize("target", ["missing.py", "missing_module", "README", "typo.py"])
def test_a_target_that_is_not_there_is_exit_code_2_before_anything_starts(
    site: Deployment, command: str, target: str
) -> None:
    (site.folder / "typo.py").write_text("def (\n")
    assert_one_line_error(site.holdfast(command, target), 2, target)
    assert not (site.folder / ".holdfast").exists()


def test_a_target_that_fails_to_load_is_exit_code_2(site: Deployment) -> None:
    (site.folder / "broken.py").write_text("raise RuntimeError('broken on purpose')\n")
    done = site.holdfast("worker", "broken.py")
    assert done.returncode == 2
    assert "\nerror: target 'broken.py' fails to load: RuntimeError: broken on purpose (broken.py:1)\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert "event=executor_started" in done.stderr
    assert not re.search("executor_restart|executor_failed", done.stderr), done.stderr


def test_settings_come_from_the_environment(site: Deployment, tmp_path: Path) -> None:
    environment = {"HOLDFAST_DATABASE_URL": f"sqlite:///{tmp_path / 'named.sqlite3'}", "HOLDFAST_LISTEN": site.address}
    scheduler = site.start("scheduler", "scheduler", environment=environment)
    site.wait_for_scheduler(scheduler)
    assert (tmp_path / "named.sqlite3").exists()
    assert os.environ.get("HOLDFAST_ADDRESS") != site.address
    assert site.holdfast("runs", "list").returncode == 0  # finds it by HOLDFAST_ADDRESS
    assert scheduler.stop() == 0
