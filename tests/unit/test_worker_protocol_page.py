"""docs/worker-protocol.md promises to be enough to write a worker from: it names every part of the contract."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor

from holdfast.v1 import worker_service_pb2 as w


def _oneof(message: Descriptor, name: str) -> list[str]:
    return [field.name for field in message.oneofs_by_name[name].fields]


WHOSE = {"run_id", "fence", "number"}
"""Fields that say what a report is about."""

NAMES = {
    "frames of a worker": _oneof(w.ConnectRequest.DESCRIPTOR, "frame"),
    "frames of a scheduler": _oneof(w.ConnectResponse.DESCRIPTOR, "frame"),
    "transitions": _oneof(w.Report.DESCRIPTOR, "transition"),
    "records": _oneof(w.CheckpointRecord.DESCRIPTOR, "kind"),
    "what a report carries": [field.name for field in w.Report.DESCRIPTOR.fields if field.name not in WHOSE],
    "parts of a delivery": [field.name for field in w.Delivery.DESCRIPTOR.fields],
    "reasons of a refusal": [name.removeprefix("REFUSAL_REASON_") for name in list(w.RefusalReason.keys())[1:]],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
def test_the_page_names_every_part_of_the_contract(repository: Path, names: list[str]) -> None:
    page = (repository / "docs" / "worker-protocol.md").read_text()
    named = set(re.findall(r"`(\w+)`|\b([A-Z_]{5,})\b", page))
    assert [name for name in names if (name, "") not in named and ("", name) not in named] == []


SEQUENCES = ["Hello", "Start", "Checkpoint", "Wait", "Resume", "Cancel", "Reconnect", "Stale fence", "Drain"]


@pytest.mark.parametrize("heading", SEQUENCES)
def test_the_page_draws_every_sequence(repository: Path, heading: str) -> None:
    page = (repository / "docs" / "worker-protocol.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL)
    assert "```mermaid\nsequenceDiagram\n" in section
