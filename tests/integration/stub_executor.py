"""An executor without bodies, for tests of the supervisor: what a run does is its task's id.

done      completes at once
park      parks; completes when it is resumed
hang      says so and executes until it is dropped or canceled
crash     exits with code 3
stuck     says so and blocks the event loop forever
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time

from holdfast.v1.task_pb2 import TaskDefinition
from holdfast.v1.worker_service_pb2 import (
    Canceled,
    Completed,
    ConnectRequest,
    ConnectResponse,
    Credit,
    Hello,
    Park,
    Renew,
    Report,
    Reports,
)
from holdfast_worker import lifeline, link

PLACES = 50


class Stub:
    def __init__(self) -> None:
        self.frame_no = 0
        self.starts = 0
        self.tasks: dict[bytes, str] = {}
        self.link: link.Link

    def say(self, *reports: Report) -> None:
        self.frame_no += 1
        credit = Credit(free_places=PLACES - len(self.tasks), after_start_seq=self.starts)
        self.link.send(ConnectRequest(reports=Reports(frame_no=self.frame_no, reports=reports, credit=credit)))

    def take(self, frames: list[bytes]) -> None:
        for data in frames:
            frame = ConnectResponse.FromString(data)
            if frame.HasField("renewed"):
                self.link.send(ConnectRequest(renew=Renew(nonce=frame.renewed.nonce)))
            for cancel in frame.delivery.cancels:
                self.say(Report(run_id=cancel.run_id, fence=cancel.fence, number=9, canceled=Canceled()))
            for drop in frame.delivery.drops:
                self.tasks.pop(drop.run_id, None)
            for resume in frame.delivery.resumes:
                self.say(Report(run_id=resume.run_id, fence=resume.fence, number=1, completed=Completed()))
            for start in frame.delivery.starts:
                self.starts += 1
                self.tasks[start.run_id] = start.task_id
                report = Report(run_id=start.run_id, fence=start.fence, number=1)
                if start.task_id == "done":
                    del self.tasks[start.run_id]
                    report.completed.SetInParent()
                    self.say(report)
                elif start.task_id == "park":
                    report.park.CopyFrom(Park(seen_settled=start.settled_order))
                    self.say(report)
                elif start.task_id == "hang":
                    self.say(report)
                elif start.task_id == "crash":
                    os._exit(3)
                elif start.task_id == "stuck":
                    self.say(report)
                    time.sleep(3600)

    def ended(self, error: Exception | None) -> None:
        os._exit(0)


async def run(fd: int, ids: list[str]) -> None:
    stub = Stub()
    sock = link.inherited_socket(fd)
    lifeline.leave_with_supervisor(sock, os.getppid())
    stub.link = await link.open_link(sock, stub.take, stub.ended)
    tasks = [TaskDefinition(id=each) for each in ids]
    stub.link.send(ConnectRequest(hello=Hello(tasks=tasks, slots=PLACES)))
    await asyncio.Event().wait()


parser = argparse.ArgumentParser()
parser.add_argument("--link-fd", type=int, required=True)
parser.add_argument("targets", nargs="+")
options = parser.parse_args()
if "missing" in options.targets:
    print("target missing: no such module", file=sys.stderr)
    sys.exit(2)
asyncio.run(run(options.link_fd, options.targets))
