import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from holdfast.v1 import payload_pb2 as _payload_pb2
from holdfast.v1 import run_pb2 as _run_pb2
from holdfast.v1 import run_service_pb2 as _run_service_pb2
from holdfast.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MetadataTarget(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METADATA_TARGET_UNSPECIFIED: _ClassVar[MetadataTarget]
    METADATA_TARGET_SELF: _ClassVar[MetadataTarget]
    METADATA_TARGET_PARENT: _ClassVar[MetadataTarget]
    METADATA_TARGET_ROOT: _ClassVar[MetadataTarget]

class MetadataVerb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METADATA_VERB_UNSPECIFIED: _ClassVar[MetadataVerb]
    METADATA_VERB_SET: _ClassVar[MetadataVerb]
    METADATA_VERB_DELETE: _ClassVar[MetadataVerb]
    METADATA_VERB_INCREMENT: _ClassVar[MetadataVerb]
    METADATA_VERB_APPEND: _ClassVar[MetadataVerb]
    METADATA_VERB_REMOVE: _ClassVar[MetadataVerb]

class RefusalReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_REASON_UNSPECIFIED: _ClassVar[RefusalReason]
    REFUSAL_REASON_STALE_FENCE: _ClassVar[RefusalReason]
    REFUSAL_REASON_CANCELING: _ClassVar[RefusalReason]
    REFUSAL_REASON_ENDED: _ClassVar[RefusalReason]
    REFUSAL_REASON_INVALID: _ClassVar[RefusalReason]
METADATA_TARGET_UNSPECIFIED: MetadataTarget
METADATA_TARGET_SELF: MetadataTarget
METADATA_TARGET_PARENT: MetadataTarget
METADATA_TARGET_ROOT: MetadataTarget
METADATA_VERB_UNSPECIFIED: MetadataVerb
METADATA_VERB_SET: MetadataVerb
METADATA_VERB_DELETE: MetadataVerb
METADATA_VERB_INCREMENT: MetadataVerb
METADATA_VERB_APPEND: MetadataVerb
METADATA_VERB_REMOVE: MetadataVerb
REFUSAL_REASON_UNSPECIFIED: RefusalReason
REFUSAL_REASON_STALE_FENCE: RefusalReason
REFUSAL_REASON_CANCELING: RefusalReason
REFUSAL_REASON_ENDED: RefusalReason
REFUSAL_REASON_INVALID: RefusalReason

class ConnectRequest(_message.Message):
    __slots__ = ("hello", "held", "reports", "credit", "renew", "goodbye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    held: Held
    reports: Reports
    credit: Credit
    renew: Renew
    goodbye: Goodbye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., held: _Optional[_Union[Held, _Mapping]] = ..., reports: _Optional[_Union[Reports, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ..., renew: _Optional[_Union[Renew, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class ConnectResponse(_message.Message):
    __slots__ = ("welcome", "held_answer", "delivery", "checkpoint_page", "renewed", "go_away")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    HELD_ANSWER_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_PAGE_FIELD_NUMBER: _ClassVar[int]
    RENEWED_FIELD_NUMBER: _ClassVar[int]
    GO_AWAY_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    held_answer: HeldAnswer
    delivery: Delivery
    checkpoint_page: CheckpointPage
    renewed: Renewed
    go_away: GoAway
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., held_answer: _Optional[_Union[HeldAnswer, _Mapping]] = ..., delivery: _Optional[_Union[Delivery, _Mapping]] = ..., checkpoint_page: _Optional[_Union[CheckpointPage, _Mapping]] = ..., renewed: _Optional[_Union[Renewed, _Mapping]] = ..., go_away: _Optional[_Union[GoAway, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_major", "protocol_minor", "features", "namespace", "session_id", "session_secret", "worker_name", "version", "tasks", "slots", "sdk")
    PROTOCOL_MAJOR_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MINOR_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_SECRET_FIELD_NUMBER: _ClassVar[int]
    WORKER_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SDK_FIELD_NUMBER: _ClassVar[int]
    protocol_major: int
    protocol_minor: int
    features: _containers.RepeatedScalarFieldContainer[str]
    namespace: str
    session_id: bytes
    session_secret: bytes
    worker_name: str
    version: str
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.TaskDefinition]
    slots: int
    sdk: str
    def __init__(self, protocol_major: _Optional[int] = ..., protocol_minor: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., namespace: _Optional[str] = ..., session_id: _Optional[bytes] = ..., session_secret: _Optional[bytes] = ..., worker_name: _Optional[str] = ..., version: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[_task_pb2.TaskDefinition, _Mapping]]] = ..., slots: _Optional[int] = ..., sdk: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session_id", "session_secret", "connection_no", "resumed", "lease", "renew_interval", "hold", "cancel_grace", "limits", "server_version", "features")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_SECRET_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_NO_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    RENEW_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    CANCEL_GRACE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    session_secret: bytes
    connection_no: int
    resumed: bool
    lease: _duration_pb2.Duration
    renew_interval: _duration_pb2.Duration
    hold: _duration_pb2.Duration
    cancel_grace: _duration_pb2.Duration
    limits: Limits
    server_version: str
    features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_id: _Optional[bytes] = ..., session_secret: _Optional[bytes] = ..., connection_no: _Optional[int] = ..., resumed: _Optional[bool] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., renew_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., hold: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cancel_grace: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., server_version: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("payload_bytes", "step_result_bytes", "metadata_bytes", "frame_bytes", "checkpoints", "batch_items", "depth")
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    STEP_RESULT_BYTES_FIELD_NUMBER: _ClassVar[int]
    METADATA_BYTES_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ITEMS_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    payload_bytes: int
    step_result_bytes: int
    metadata_bytes: int
    frame_bytes: int
    checkpoints: int
    batch_items: int
    depth: int
    def __init__(self, payload_bytes: _Optional[int] = ..., step_result_bytes: _Optional[int] = ..., metadata_bytes: _Optional[int] = ..., frame_bytes: _Optional[int] = ..., checkpoints: _Optional[int] = ..., batch_items: _Optional[int] = ..., depth: _Optional[int] = ...) -> None: ...

class HeldRun(_message.Message):
    __slots__ = ("run_id", "fence")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    fence: int
    def __init__(self, run_id: _Optional[bytes] = ..., fence: _Optional[int] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("runs", "last")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[HeldRun]
    last: bool
    def __init__(self, runs: _Optional[_Iterable[_Union[HeldRun, _Mapping]]] = ..., last: _Optional[bool] = ...) -> None: ...

class HeldAnswer(_message.Message):
    __slots__ = ("drops", "cancels", "updates")
    DROPS_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    drops: _containers.RepeatedCompositeFieldContainer[Drop]
    cancels: _containers.RepeatedCompositeFieldContainer[Cancel]
    updates: _containers.RepeatedCompositeFieldContainer[CheckpointUpdate]
    def __init__(self, drops: _Optional[_Iterable[_Union[Drop, _Mapping]]] = ..., cancels: _Optional[_Iterable[_Union[Cancel, _Mapping]]] = ..., updates: _Optional[_Iterable[_Union[CheckpointUpdate, _Mapping]]] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("free_slots", "after_start_seq", "free_places")
    FREE_SLOTS_FIELD_NUMBER: _ClassVar[int]
    AFTER_START_SEQ_FIELD_NUMBER: _ClassVar[int]
    FREE_PLACES_FIELD_NUMBER: _ClassVar[int]
    free_slots: int
    after_start_seq: int
    free_places: int
    def __init__(self, free_slots: _Optional[int] = ..., after_start_seq: _Optional[int] = ..., free_places: _Optional[int] = ...) -> None: ...

class Renew(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Renewed(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GoAway(_message.Message):
    __slots__ = ("within",)
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    within: _duration_pb2.Duration
    def __init__(self, within: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Reports(_message.Message):
    __slots__ = ("frame_no", "reports", "credit", "sent_at_us")
    FRAME_NO_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_US_FIELD_NUMBER: _ClassVar[int]
    frame_no: int
    reports: _containers.RepeatedCompositeFieldContainer[Report]
    credit: Credit
    sent_at_us: int
    def __init__(self, frame_no: _Optional[int] = ..., reports: _Optional[_Iterable[_Union[Report, _Mapping]]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ..., sent_at_us: _Optional[int] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("run_id", "fence", "number", "records", "abandoned_seqs", "metadata", "logs", "add_tags", "park", "wake", "completed", "failed", "canceled", "released", "lost")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    ABANDONED_SEQS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    ADD_TAGS_FIELD_NUMBER: _ClassVar[int]
    PARK_FIELD_NUMBER: _ClassVar[int]
    WAKE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELED_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    fence: int
    number: int
    records: _containers.RepeatedCompositeFieldContainer[CheckpointRecord]
    abandoned_seqs: _containers.RepeatedScalarFieldContainer[int]
    metadata: _containers.RepeatedCompositeFieldContainer[MetadataOperation]
    logs: _containers.RepeatedCompositeFieldContainer[_run_service_pb2.LogRecord]
    add_tags: _containers.RepeatedScalarFieldContainer[str]
    park: Park
    wake: Wake
    completed: Completed
    failed: Failed
    canceled: Canceled
    released: Released
    lost: Lost
    def __init__(self, run_id: _Optional[bytes] = ..., fence: _Optional[int] = ..., number: _Optional[int] = ..., records: _Optional[_Iterable[_Union[CheckpointRecord, _Mapping]]] = ..., abandoned_seqs: _Optional[_Iterable[int]] = ..., metadata: _Optional[_Iterable[_Union[MetadataOperation, _Mapping]]] = ..., logs: _Optional[_Iterable[_Union[_run_service_pb2.LogRecord, _Mapping]]] = ..., add_tags: _Optional[_Iterable[str]] = ..., park: _Optional[_Union[Park, _Mapping]] = ..., wake: _Optional[_Union[Wake, _Mapping]] = ..., completed: _Optional[_Union[Completed, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., canceled: _Optional[_Union[Canceled, _Mapping]] = ..., released: _Optional[_Union[Released, _Mapping]] = ..., lost: _Optional[_Union[Lost, _Mapping]] = ...) -> None: ...

class CheckpointRecord(_message.Message):
    __slots__ = ("seq", "identity", "name", "fingerprint", "location", "timeout", "continuation", "step", "wait", "child", "batch", "token", "token_wait", "shielded", "asked_at_us")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    CHILD_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_WAIT_FIELD_NUMBER: _ClassVar[int]
    SHIELDED_FIELD_NUMBER: _ClassVar[int]
    ASKED_AT_US_FIELD_NUMBER: _ClassVar[int]
    seq: int
    identity: str
    name: str
    fingerprint: bytes
    location: str
    timeout: _duration_pb2.Duration
    continuation: bytes
    step: StepRecord
    wait: WaitRecord
    child: ChildRecord
    batch: BatchRecord
    token: TokenRecord
    token_wait: TokenWaitRecord
    shielded: bool
    asked_at_us: int
    def __init__(self, seq: _Optional[int] = ..., identity: _Optional[str] = ..., name: _Optional[str] = ..., fingerprint: _Optional[bytes] = ..., location: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., continuation: _Optional[bytes] = ..., step: _Optional[_Union[StepRecord, _Mapping]] = ..., wait: _Optional[_Union[WaitRecord, _Mapping]] = ..., child: _Optional[_Union[ChildRecord, _Mapping]] = ..., batch: _Optional[_Union[BatchRecord, _Mapping]] = ..., token: _Optional[_Union[TokenRecord, _Mapping]] = ..., token_wait: _Optional[_Union[TokenWaitRecord, _Mapping]] = ..., shielded: _Optional[bool] = ..., asked_at_us: _Optional[int] = ...) -> None: ...

class StepRecord(_message.Message):
    __slots__ = ("value", "error", "permanent")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PERMANENT_FIELD_NUMBER: _ClassVar[int]
    value: _payload_pb2.Payload
    error: _payload_pb2.TaskError
    permanent: bool
    def __init__(self, value: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., error: _Optional[_Union[_payload_pb2.TaskError, _Mapping]] = ..., permanent: _Optional[bool] = ...) -> None: ...

class WaitRecord(_message.Message):
    __slots__ = ("delay", "until_us")
    DELAY_FIELD_NUMBER: _ClassVar[int]
    UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    delay: _duration_pb2.Duration
    until_us: int
    def __init__(self, delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., until_us: _Optional[int] = ...) -> None: ...

class ChildRecord(_message.Message):
    __slots__ = ("item", "wait")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    item: _run_pb2.TriggerItem
    wait: bool
    def __init__(self, item: _Optional[_Union[_run_pb2.TriggerItem, _Mapping]] = ..., wait: _Optional[bool] = ...) -> None: ...

class BatchRecord(_message.Message):
    __slots__ = ("batch_id", "items", "idempotency_key", "wait")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    items: _containers.RepeatedCompositeFieldContainer[_run_pb2.TriggerItem]
    idempotency_key: _run_pb2.IdempotencyKey
    wait: bool
    def __init__(self, batch_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[_run_pb2.TriggerItem, _Mapping]]] = ..., idempotency_key: _Optional[_Union[_run_pb2.IdempotencyKey, _Mapping]] = ..., wait: _Optional[bool] = ...) -> None: ...

class TokenRecord(_message.Message):
    __slots__ = ("token_id", "timeout", "tags", "idempotency_key")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    timeout: _duration_pb2.Duration
    tags: _containers.RepeatedScalarFieldContainer[str]
    idempotency_key: _run_pb2.IdempotencyKey
    def __init__(self, token_id: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., idempotency_key: _Optional[_Union[_run_pb2.IdempotencyKey, _Mapping]] = ...) -> None: ...

class TokenWaitRecord(_message.Message):
    __slots__ = ("token_id",)
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    def __init__(self, token_id: _Optional[str] = ...) -> None: ...

class MetadataOperation(_message.Message):
    __slots__ = ("target", "verb", "key", "value", "branch", "number", "provisional")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    VERB_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PROVISIONAL_FIELD_NUMBER: _ClassVar[int]
    target: MetadataTarget
    verb: MetadataVerb
    key: str
    value: bytes
    branch: str
    number: int
    provisional: bool
    def __init__(self, target: _Optional[_Union[MetadataTarget, str]] = ..., verb: _Optional[_Union[MetadataVerb, str]] = ..., key: _Optional[str] = ..., value: _Optional[bytes] = ..., branch: _Optional[str] = ..., number: _Optional[int] = ..., provisional: _Optional[bool] = ...) -> None: ...

class MetadataMark(_message.Message):
    __slots__ = ("branch", "number")
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    branch: str
    number: int
    def __init__(self, branch: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class Park(_message.Message):
    __slots__ = ("seen_settled",)
    SEEN_SETTLED_FIELD_NUMBER: _ClassVar[int]
    seen_settled: int
    def __init__(self, seen_settled: _Optional[int] = ...) -> None: ...

class Wake(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Completed(_message.Message):
    __slots__ = ("output",)
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    output: _payload_pb2.Payload
    def __init__(self, output: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("error", "retry_delay")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    error: _payload_pb2.TaskError
    retry_delay: _duration_pb2.Duration
    def __init__(self, error: _Optional[_Union[_payload_pb2.TaskError, _Mapping]] = ..., retry_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Canceled(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Released(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Lost(_message.Message):
    __slots__ = ("evidence",)
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    evidence: str
    def __init__(self, evidence: _Optional[str] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("updates", "committed", "cancels", "drops", "resumes", "starts")
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    RESUMES_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    updates: _containers.RepeatedCompositeFieldContainer[CheckpointUpdate]
    committed: Committed
    cancels: _containers.RepeatedCompositeFieldContainer[Cancel]
    drops: _containers.RepeatedCompositeFieldContainer[Drop]
    resumes: _containers.RepeatedCompositeFieldContainer[Resume]
    starts: _containers.RepeatedCompositeFieldContainer[Start]
    def __init__(self, updates: _Optional[_Iterable[_Union[CheckpointUpdate, _Mapping]]] = ..., committed: _Optional[_Union[Committed, _Mapping]] = ..., cancels: _Optional[_Iterable[_Union[Cancel, _Mapping]]] = ..., drops: _Optional[_Iterable[_Union[Drop, _Mapping]]] = ..., resumes: _Optional[_Iterable[_Union[Resume, _Mapping]]] = ..., starts: _Optional[_Iterable[_Union[Start, _Mapping]]] = ...) -> None: ...

class Committed(_message.Message):
    __slots__ = ("up_to", "refused")
    UP_TO_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    up_to: int
    refused: _containers.RepeatedCompositeFieldContainer[Refusal]
    def __init__(self, up_to: _Optional[int] = ..., refused: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("run_id", "fence", "number", "reason", "message")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    fence: int
    number: int
    reason: RefusalReason
    message: str
    def __init__(self, run_id: _Optional[bytes] = ..., fence: _Optional[int] = ..., number: _Optional[int] = ..., reason: _Optional[_Union[RefusalReason, str]] = ..., message: _Optional[str] = ...) -> None: ...

class CheckpointUpdate(_message.Message):
    __slots__ = ("run_id", "fence", "checkpoint")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    fence: int
    checkpoint: _run_pb2.Checkpoint
    def __init__(self, run_id: _Optional[bytes] = ..., fence: _Optional[int] = ..., checkpoint: _Optional[_Union[_run_pb2.Checkpoint, _Mapping]] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("run_id", "fence")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    fence: int
    def __init__(self, run_id: _Optional[bytes] = ..., fence: _Optional[int] = ...) -> None: ...

class Drop(_message.Message):
    __slots__ = ("run_id", "fence", "reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    fence: int
    reason: str
    def __init__(self, run_id: _Optional[bytes] = ..., fence: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("start_seq", "run_id", "fence", "settled", "continuation", "after")
    START_SEQ_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    start_seq: int
    run_id: bytes
    fence: int
    settled: _containers.RepeatedCompositeFieldContainer[_run_pb2.Checkpoint]
    continuation: bytes
    after: _duration_pb2.Duration
    def __init__(self, start_seq: _Optional[int] = ..., run_id: _Optional[bytes] = ..., fence: _Optional[int] = ..., settled: _Optional[_Iterable[_Union[_run_pb2.Checkpoint, _Mapping]]] = ..., continuation: _Optional[bytes] = ..., after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("start_seq", "run_id", "fence", "attempt", "task_id", "payload", "recoveries", "checkpoints", "more_checkpoints", "last_seq", "metadata", "metadata_marks", "parent_run_id", "root_run_id", "batch_id", "tags", "queue", "concurrency_key", "max_attempts", "is_replay", "trace_context", "is_reentry", "max_duration", "idempotency_key", "created_at_us", "continuation", "settled_order", "depth", "version")
    class TraceContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    START_SEQ_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    RECOVERIES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    MORE_CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    METADATA_MARKS_FIELD_NUMBER: _ClassVar[int]
    PARENT_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    IS_REPLAY_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    IS_REENTRY_FIELD_NUMBER: _ClassVar[int]
    MAX_DURATION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_US_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    SETTLED_ORDER_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    start_seq: int
    run_id: bytes
    fence: int
    attempt: int
    task_id: str
    payload: _payload_pb2.Payload
    recoveries: int
    checkpoints: _containers.RepeatedCompositeFieldContainer[_run_pb2.Checkpoint]
    more_checkpoints: bool
    last_seq: int
    metadata: bytes
    metadata_marks: _containers.RepeatedCompositeFieldContainer[MetadataMark]
    parent_run_id: bytes
    root_run_id: bytes
    batch_id: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    queue: str
    concurrency_key: str
    max_attempts: int
    is_replay: bool
    trace_context: _containers.ScalarMap[str, str]
    is_reentry: bool
    max_duration: _duration_pb2.Duration
    idempotency_key: _run_pb2.IdempotencyKey
    created_at_us: int
    continuation: bytes
    settled_order: int
    depth: int
    version: str
    def __init__(self, start_seq: _Optional[int] = ..., run_id: _Optional[bytes] = ..., fence: _Optional[int] = ..., attempt: _Optional[int] = ..., task_id: _Optional[str] = ..., payload: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., recoveries: _Optional[int] = ..., checkpoints: _Optional[_Iterable[_Union[_run_pb2.Checkpoint, _Mapping]]] = ..., more_checkpoints: _Optional[bool] = ..., last_seq: _Optional[int] = ..., metadata: _Optional[bytes] = ..., metadata_marks: _Optional[_Iterable[_Union[MetadataMark, _Mapping]]] = ..., parent_run_id: _Optional[bytes] = ..., root_run_id: _Optional[bytes] = ..., batch_id: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., queue: _Optional[str] = ..., concurrency_key: _Optional[str] = ..., max_attempts: _Optional[int] = ..., is_replay: _Optional[bool] = ..., trace_context: _Optional[_Mapping[str, str]] = ..., is_reentry: _Optional[bool] = ..., max_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., idempotency_key: _Optional[_Union[_run_pb2.IdempotencyKey, _Mapping]] = ..., created_at_us: _Optional[int] = ..., continuation: _Optional[bytes] = ..., settled_order: _Optional[int] = ..., depth: _Optional[int] = ..., version: _Optional[str] = ...) -> None: ...

class CheckpointPage(_message.Message):
    __slots__ = ("run_id", "fence", "checkpoints", "last")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    fence: int
    checkpoints: _containers.RepeatedCompositeFieldContainer[_run_pb2.Checkpoint]
    last: bool
    def __init__(self, run_id: _Optional[bytes] = ..., fence: _Optional[int] = ..., checkpoints: _Optional[_Iterable[_Union[_run_pb2.Checkpoint, _Mapping]]] = ..., last: _Optional[bool] = ...) -> None: ...
