// One execution of a run: a body from Start to its last report. Bodies are sequential: one durable call at a time.
import { createHash } from "node:crypto";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type TaskError, TaskErrorKind, TaskErrorSchema } from "../gen/holdfast/v1/payload_pb.js";
import { type Checkpoint, CheckpointKind, CheckpointStatus } from "../gen/holdfast/v1/run_pb.js";
import {
  type CheckpointRecordSchema,
  type Refusal,
  RefusalReason,
  type Report,
  ReportSchema,
  type Resume,
  type Start,
} from "../gen/holdfast/v1/worker_service_pb.js";
import { idText } from "./ids.js";
import { decode, encode } from "./payload.js";

/** What a body is given. */
export interface Run {
  readonly id: string;
  readonly attempt: number;
  readonly fence: bigint;
  /** Aborted when the run is canceled. */
  readonly signal: AbortSignal;
  /** Calls `fn` once, whatever is killed after it was recorded, and returns what it returned, as JSON. */
  step<A extends unknown[], T>(name: string, fn: (...args: A) => T | Promise<T>, ...args: A): Promise<T>;
  /** Waits without a slot. */
  wait(seconds: number): Promise<void>;
}

export type Body = (payload: unknown, run: Run) => Promise<unknown>;

/** A recorded step failed. */
export class StepFailedError extends Error {}
/** The run is being canceled. */
export class RunCanceledError extends Error {}

/** RUNNING and PARKING take a slot. What is ENDED waits for the acknowledgement of its last report. */
export type State = "running" | "parking" | "parked" | "ended" | "dropped";

/** What an execution needs of its worker. */
export interface Host {
  report(report: Report): void;
  /** The state has changed: slots may be free. */
  changed(): void;
}

type RecordInit = MessageInitShape<typeof CheckpointRecordSchema>;
type Ending = NonNullable<MessageInitShape<typeof ReportSchema>["transition"]>;

const PARK = "park";

interface Asked {
  seq: number;
  /** The report whose commit settles it; 0 when a CheckpointUpdate does. */
  settledBy: number;
  answer: (checkpoint: Checkpoint | undefined) => void;
  refuse: (error: Error) => void;
}

export class Execution implements Run {
  state: State = "running";
  fence: bigint;
  readonly runId: Uint8Array;
  readonly attempt: number;
  private readonly abort = new AbortController();
  private readonly recorded = new Map<string, Checkpoint>();
  private readonly occurrences = new Map<string, number>();
  private readonly settledHere = new Map<number, Checkpoint>();
  private seq: number;
  private number = 0; // of the last report under this fence
  private seen: number; // the highest settled_order that came from the scheduler
  private parkNumber = 0;
  private parkSeen = 0;
  private lastNumber = 0; // of the report that ended it
  private asked: Asked | undefined;
  private doom: TaskError | undefined; // fails the attempt, whatever the body does

  constructor(start: Start, checkpoints: Checkpoint[], private readonly host: Host) {
    this.runId = start.runId;
    this.fence = start.fence;
    this.attempt = start.attempt;
    this.seq = start.lastSeq;
    this.seen = start.settledOrder;
    for (const one of checkpoints) this.recorded.set(one.identity, one);
  }

  get id(): string {
    return idText("run_", this.runId);
  }

  get signal(): AbortSignal {
    return this.abort.signal;
  }

  get takesSlot(): boolean {
    return this.state === "running" || this.state === "parking";
  }

  /** Runs the body to its end. After `drop` nothing that it does has an effect. */
  async begin(body: Body, payload: unknown): Promise<void> {
    try {
      const output = encode(await body(payload, this));
      this.end({ case: "completed", value: { output } });
    } catch (error) {
      this.end({ case: "failed", value: { error: describe(error) } });
    }
  }

  // -- durable calls

  async step<A extends unknown[], T>(name: string, fn: (...args: A) => T | Promise<T>, ...args: A): Promise<T> {
    const identity = await this.identify("step", name);
    const fingerprint = createHash("sha256").update(JSON.stringify(args)).digest();
    const found = this.recall(identity, CheckpointKind.STEP);
    if (found !== undefined) {
      if (!fingerprint.equals(found.fingerprint)) {
        this.doom ??= nonDeterminism(`step ${name} was recorded with other arguments`);
        throw new Error(this.doom.message);
      }
      if (found.status === CheckpointStatus.FAILED) throw new StepFailedError(found.error?.message);
      return decode(found.value) as T;
    }
    const about = { identity, name, fingerprint };
    try {
      const value = encode(await fn(...args));
      await this.record({ ...about, kind: { case: "step", value: { outcome: { case: "value", value } } } });
      return decode(value) as T;
    } catch (error) {
      if (error instanceof RunCanceledError || this.doom !== undefined) throw error;
      const failure = describe(error);
      await this.record({ ...about, kind: { case: "step", value: { outcome: { case: "error", value: failure } } } });
      throw new StepFailedError(failure.message);
    }
  }

  async wait(seconds: number): Promise<void> {
    const identity = await this.identify("wait", "");
    const found = this.recall(identity, CheckpointKind.WAIT);
    if (found?.status === CheckpointStatus.SUCCEEDED) return;
    const settled = found && this.settledHere.get(found.seq);
    if (settled !== undefined) return;
    const micros = Math.round(seconds * 1e6);
    const value = { seconds: BigInt(Math.floor(micros / 1e6)), nanos: (micros % 1e6) * 1000 };
    const kind = { case: "wait" as const, value: { when: { case: "delay" as const, value } } };
    // A pending one is known to the scheduler: only the Park is new.
    if (found !== undefined) await this.ask(found.seq, 0, () => this.post([], PARK));
    else await this.record({ identity, kind }, PARK);
  }

  private async identify(kind: string, name: string): Promise<string> {
    // A body that was let go of may still come here out of code of its own: it must not do anything more.
    if (this.state !== "running") await new Promise(() => {});
    const place = `${kind}/${name}`;
    const occurrence = this.occurrences.get(place) ?? 0;
    this.occurrences.set(place, occurrence + 1);
    return `${place}/${occurrence}`;
  }

  private recall(identity: string, kind: CheckpointKind): Checkpoint | undefined {
    this.signal.throwIfAborted();
    const found = this.recorded.get(identity);
    if (found !== undefined && found.kind !== kind) {
      this.doom ??= nonDeterminism(`${identity} was recorded as ${CheckpointKind[found.kind]}`);
      throw new Error(this.doom.message);
    }
    return found;
  }

  private async record(record: RecordInit, park?: typeof PARK): Promise<void> {
    if (this.state !== "running") await new Promise(() => {});
    this.signal.throwIfAborted();
    const seq = ++this.seq;
    const settledBy = park === undefined ? this.number + 1 : 0;
    await this.ask(seq, settledBy, () => this.post([{ ...record, seq }], park));
  }

  private ask(seq: number, settledBy: number, post: () => void): Promise<Checkpoint | undefined> {
    return new Promise((answer, refuse) => {
      this.asked = { seq, settledBy, answer, refuse };
      post();
    });
  }

  // -- what the worker passes on

  /** A checkpoint was settled; one that is known already is passed over. */
  update(checkpoint: Checkpoint): void {
    this.seen = Math.max(this.seen, checkpoint.settledOrder);
    // A Park that is on its way does not count: the scheduler has settled this before it took the Park.
    if (this.state === "parking" && this.seen > this.parkSeen) this.move("running");
    if (checkpoint.status === CheckpointStatus.PENDING || this.settledHere.has(checkpoint.seq)) return;
    this.settledHere.set(checkpoint.seq, checkpoint);
    if (this.asked?.seq === checkpoint.seq && this.asked.settledBy === 0) this.answer(checkpoint);
  }

  /** A report is committed. */
  committed(fence: bigint, number: number): void {
    if (fence !== this.fence) return;
    if (this.state === "parking" && number === this.parkNumber) this.move("parked");
    if (this.state === "ended" && number === this.lastNumber) this.move("dropped");
    if (this.asked?.settledBy === number) this.answer(undefined);
  }

  /** A report changed nothing. */
  refused(refusal: Refusal): void {
    if (refusal.fence !== this.fence || this.state === "dropped") return;
    switch (refusal.reason) {
      case RefusalReason.CANCELING:
        this.cancel();
        break;
      case RefusalReason.INVALID:
        this.doom ??= create(TaskErrorSchema, {
          kind: TaskErrorKind.LIMIT_EXCEEDED,
          type: "LimitExceeded",
          message: refusal.message,
        });
        if (this.state === "ended") {
          this.state = "running";
          this.end({ case: "failed", value: { error: this.doom } });
        } else {
          if (this.state !== "running") this.move("running");
          this.interrupt(new Error(refusal.message));
        }
        break;
      default:
        this.drop();
    }
  }

  /** Goes on in place. Returns false when there is no parked body. */
  resume(resume: Resume): boolean {
    if ((this.state !== "parked" && this.state !== "parking") || resume.fence <= this.fence) return false;
    this.fence = resume.fence;
    this.number = 0;
    this.move("running");
    for (const one of resume.settled) this.update(one);
    return true;
  }

  /** The cancellation was accepted: the body comes to its end, or is cut off by the worker. */
  cancel(): void {
    if (this.signal.aborted || this.state === "ended" || this.state === "dropped") return;
    if (this.state !== "running") this.move("running");
    const error = new RunCanceledError("the run is being canceled");
    this.abort.abort(error);
    this.interrupt(error);
  }

  /** The last report, unless it was made. */
  end(transition: Ending): void {
    if (!this.takesSlot && this.state !== "parked") return;
    if (this.signal.aborted) transition = { case: "canceled", value: {} };
    else if (this.doom !== undefined) transition = { case: "failed", value: { error: this.doom } };
    this.move("ended");
    this.lastNumber = ++this.number;
    this.host.report(create(ReportSchema, { runId: this.runId, fence: this.fence, number: this.number, transition }));
  }

  /** Never stepped again, and says nothing: its promise stays open for ever, and no `finally` runs. */
  drop(): void {
    this.asked = undefined;
    this.move("dropped");
  }

  private post(records: RecordInit[], park?: typeof PARK): void {
    const number = ++this.number;
    if (park !== undefined) {
      this.parkNumber = number;
      this.parkSeen = this.seen;
      this.move("parking");
    }
    const transition = park && { case: park, value: { seenSettled: this.seen } };
    this.host.report(create(ReportSchema, { runId: this.runId, fence: this.fence, number, records, transition }));
  }

  private answer(checkpoint: Checkpoint | undefined): void {
    const asked = this.asked;
    this.asked = undefined;
    asked?.answer(checkpoint);
  }

  private interrupt(error: Error): void {
    const asked = this.asked;
    this.asked = undefined;
    asked?.refuse(error);
  }

  private move(state: State): void {
    this.state = state;
    this.host.changed();
  }
}

function describe(error: unknown): TaskError {
  const found = error instanceof Error ? error : new Error(String(error));
  return create(TaskErrorSchema, {
    kind: TaskErrorKind.USER,
    type: found.name,
    message: found.message,
    stack: found.stack ?? "",
    retryable: true,
  });
}

function nonDeterminism(message: string): TaskError {
  return create(TaskErrorSchema, { kind: TaskErrorKind.NON_DETERMINISM, type: "NonDeterminismError", message });
}
