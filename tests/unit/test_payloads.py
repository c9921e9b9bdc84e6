from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from holdfast import payloads
from holdfast.errors import PayloadError, TooLargeError
from holdfast.payloads import Codec
from holdfast.v1.payload_pb2 import Payload


class Model(BaseModel):
    name: str
    ratio: float = 0.0
    note: str | None = None


@dataclass
class Data:
    count: int
    ratio: float = 0.0


class Typed(TypedDict):
    count: int


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Model, Model(name="a")),
        (Data, Data(3)),
        (Typed, {"count": 3}),
        (int, 3),
        (str, "ü \U0001f600"),
        (list[Model], [Model(name="a", note=None)]),
        (dict[str, float], {"a": 1.5}),
        (None, None),
        (Any, {"a": [1, None, True]}),
        (bytes, b"abc"),
    ],
)
def test_values_come_back_as_their_type(annotation, value):
    codec = Codec(annotation, "value")
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float, math.nan),
        (Any, {"a": [math.inf]}),
        (Model, Model(name="a", ratio=math.nan)),
        (Data, Data(1, -math.inf)),
        (list[Model], [Model(name="a", ratio=math.inf)]),
        (dict[str, float], {"a": math.nan}),
    ],
)
def test_nan_and_infinities_are_refused_not_nulled(annotation, value):
    with pytest.raises(PayloadError, match="not a JSON number"):
        Codec(annotation, "payload").encode(value)


@pytest.mark.parametrize("data", [b"NaN", b"Infinity", b"-Infinity"])
def test_nan_from_elsewhere_is_refused(data):
    with pytest.raises(PayloadError):
        Codec(float, "payload").decode(data)


def test_text_that_looks_like_nan_is_text():
    codec = Codec(str, "payload")
    assert codec.decode(codec.encode("NaN null Infinity")) == "NaN null Infinity"


def test_a_misfit_names_the_value_and_the_field():
    with pytest.raises(PayloadError, match=r"payload of task 'x': count: Input should be"):
        Codec(Data, "payload of task 'x'").decode(b'{"count": "many"}')
    with pytest.raises(PayloadError, match="output"):
        Codec(int, "output").encode("three")
    with pytest.raises(PayloadError):
        Codec(int, "payload").decode(b'{"broken')


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(PayloadError, match="value"):
        Codec(Any, "value").encode(object())
    with pytest.raises(PayloadError, match="Annotate it"):
        Codec(type("Opaque", (), {}), "value").encode(1)


def test_no_data_is_null():
    assert Codec(None, "payload").decode(b"") is None
    assert payloads.anything.decode_payload(Payload()) is None


def test_unknown_codecs_and_content_types_are_refused():
    with pytest.raises(PayloadError, match="codec 'zstd'"):
        payloads.anything.decode_payload(Payload(data=b"1", codec="zstd"))
    with pytest.raises(PayloadError, match="text/plain"):
        payloads.anything.decode_payload(Payload(data=b"1", content_type="text/plain"))


def test_limits_have_names():
    with pytest.raises(TooLargeError, match="payload limit of 1,048,576") as caught:
        Codec(str, "payload of task 'x'").encode("x" * payloads.MAX_PAYLOAD_BYTES)
    assert caught.value.limit == "payload"
    assert isinstance(caught.value, ValueError)


def test_schemas():
    assert json.loads(Codec(Model, "x").schema())["properties"]["name"]["type"] == "string"
    assert Codec(Any, "x").schema() == b""


def test_fingerprints_tell_task_and_payload_apart():
    one = payloads.fingerprint("a", b"1")
    assert one == payloads.fingerprint("a", b"1")
    assert len({one, payloads.fingerprint("a", b"2"), payloads.fingerprint("b", b"1")}) == 3
    assert len(one) == 16
