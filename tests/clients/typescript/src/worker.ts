// A minimal worker on the bare stream, written from docs/worker-protocol.md. One process, one event loop: a body that
// blocks it for longer than the lease costs the session. It takes no pages of Held, and no metadata.
import { hostname } from "node:os";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { type Checkpoint } from "../gen/holdfast/v1/run_pb.js";
import { TaskErrorKind } from "../gen/holdfast/v1/payload_pb.js";
import {
  type CheckpointUpdate,
  type ConnectRequest,
  ConnectRequestSchema,
  type ConnectResponse,
  type Delivery,
  type Drop,
  type HelloSchema,
  type Report,
  ReportSchema,
  type Resume,
  type Start,
  type Welcome,
  WorkerService,
} from "../gen/holdfast/v1/worker_service_pb.js";
import { connectTo } from "./client.js";
import { type Body, Execution } from "./execution.js";
import { idHex } from "./ids.js";
import { decode } from "./payload.js";

const PLACES = 1000;
const FRAME_BYTES = 1024 * 1024;
const RECONNECT_MIN_MS = 50;
const RECONNECT_MAX_MS = 2000;

export interface WorkerOptions {
  addresses: string[];
  tasks: Record<string, Body>;
  slots?: number;
  apiKey?: string | undefined;
  /** How long what executes may go on once the worker drains. */
  drainMs?: number;
}

interface Frame {
  number: bigint;
  reports: Report[];
}

type FrameInit = NonNullable<MessageInitShape<typeof ConnectRequestSchema>["frame"]>;

/** What is to be written to one stream, as an async iterable. */
class Outbox {
  private readonly frames: ConnectRequest[] = [];
  private isClosed = false;
  private wake = () => {};

  push(frame: FrameInit): void {
    this.frames.push(create(ConnectRequestSchema, { frame }));
    this.wake();
  }

  close(): void {
    this.isClosed = true;
    this.wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ConnectRequest> {
    for (;;) {
      const frame = this.frames.shift();
      if (frame !== undefined) yield frame;
      else if (this.isClosed) return;
      else await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }
}

export class Worker {
  private readonly executions = new Map<string, Execution>();
  private readonly arriving = new Map<string, { start: Start; checkpoints: Checkpoint[] }>();
  private session: { id: Uint8Array; secret: Uint8Array } | undefined;
  private terms: Welcome | undefined;
  private outbox: Outbox | undefined; // of the stream that was welcomed
  private stream = new AbortController();
  private isExchanging = false; // Held is sent, HeldAnswer is not here
  private startSeq = 0n;
  private told = "";
  private waiting: Report[] = []; // in no frame yet
  private frames: Frame[] = []; // not acknowledged
  private lastFrame = 0n;
  private leaseUntil = Infinity;
  private holdUntil = Infinity;
  private renewAt = 0;
  private renewals = new Map<bigint, number>(); // nonce → when it was sent
  private nonce = 0n;
  private isDraining = false;
  private isFlushDue = false;
  private isLeaving = false;

  constructor(private readonly options: WorkerOptions) {}

  /** Works until it was told to drain and has done so. Throws when the scheduler refuses this worker. */
  async run(): Promise<void> {
    const clock = setInterval(() => this.tick(), 100);
    try {
      for (let attempt = 0, failures = 0; !this.isLeaving; attempt++) {
        const address = this.options.addresses[attempt % this.options.addresses.length]!;
        const since = performance.now();
        await this.connect(address);
        failures = performance.now() - since > 1000 ? 0 : failures + 1;
        if (failures > 0 && !this.isLeaving) {
          const most = Math.min(RECONNECT_MAX_MS, RECONNECT_MIN_MS * 2 ** Math.min(failures, 10));
          await new Promise((resolve) => setTimeout(resolve, most * (0.5 + Math.random() / 2)));
        }
      }
    } finally {
      clearInterval(clock);
    }
  }

  /** Takes nothing new, finishes or hands back what executes, and says goodbye. */
  drain(): void {
    if (this.isDraining) return;
    this.isDraining = true;
    log("drain", { executing: this.executing });
    setTimeout(() => {
      for (const one of this.executions.values()) if (one.takesSlot) one.end({ case: "released", value: {} });
    }, this.options.drainMs ?? 30_000).unref();
    this.changed();
  }

  // -- the stream

  private async connect(address: string): Promise<void> {
    const outbox = new Outbox();
    this.stream = new AbortController();
    outbox.push({ case: "hello", value: this.hello() });
    const sentAt = performance.now();
    try {
      const client = createClient(WorkerService, connectTo(address, this.options.apiKey));
      for await (const response of client.connect(outbox, { signal: this.stream.signal })) {
        if (response.frame.case === "welcome") this.welcomed(response.frame.value, outbox, sentAt);
        else this.take(response);
      }
    } catch (error) {
      this.ended(ConnectError.from(error));
    } finally {
      this.outbox = undefined;
      this.renewals.clear();
      outbox.close();
    }
  }

  private hello(): MessageInitShape<typeof HelloSchema> {
    return {
      protocolMajor: 1,
      protocolMinor: 0,
      ...(this.session === undefined ? {} : { sessionId: this.session.id, sessionSecret: this.session.secret }),
      workerName: `${hostname()}-${process.pid}`,
      version: "1",
      tasks: Object.keys(this.options.tasks).map((id) => ({ id })),
      slots: this.slots,
      sdk: "holdfast-typescript-example/0.1.0",
    };
  }

  private ended(error: ConnectError): void {
    const reason = reasonOf(error);
    log("disconnected", { code: Code[error.code], reason, message: error.rawMessage });
    if (reason === "SESSION_UNKNOWN" || reason === "PROTOCOL_VIOLATION") {
      this.forget();
      this.session = undefined;
    } else if (
      reason === "PROTOCOL_MISMATCH" ||
      [Code.Unauthenticated, Code.PermissionDenied, Code.InvalidArgument, Code.Unimplemented].includes(error.code)
    ) {
      throw error;
    }
  }

  private welcomed(welcome: Welcome, outbox: Outbox, sentAt: number): void {
    log("connected", { resumed: welcome.resumed, connection: Number(welcome.connectionNo) });
    this.terms = welcome;
    this.session = { id: welcome.sessionId, secret: welcome.sessionSecret };
    this.outbox = outbox;
    this.startSeq = 0n;
    this.told = "";
    this.leaseUntil = sentAt + milliseconds(welcome.lease);
    this.renewAt = performance.now() + milliseconds(welcome.renewInterval);
    this.holdUntil = Infinity;
    this.isExchanging = welcome.resumed;
    if (!welcome.resumed) {
      this.forget();
      this.sendCredit();
      return;
    }
    outbox.push({ case: "held", value: { runs: this.held(), last: true } });
    for (const frame of this.frames) this.sendFrame(frame);
    this.flush();
  }

  /** Runs with a body, and runs whose last report is not acknowledged. */
  private held(): { runId: Uint8Array; fence: bigint }[] {
    const held = new Map<string, { runId: Uint8Array; fence: bigint }>();
    const reports = [...this.frames.flatMap((frame) => frame.reports), ...this.waiting];
    for (const { runId, fence } of [...reports, ...this.executions.values()]) held.set(idHex(runId), { runId, fence });
    return [...held.values()];
  }

  /** Whatever was held belongs to others. */
  private forget(): void {
    for (const one of this.executions.values()) one.drop();
    this.executions.clear();
    this.arriving.clear();
    this.waiting = [];
    this.frames = [];
    this.lastFrame = 0n;
  }

  private take({ frame }: ConnectResponse): void {
    switch (frame.case) {
      case "delivery":
        this.deliver(frame.value);
        break;
      case "heldAnswer":
        this.isExchanging = false;
        for (const update of frame.value.updates) this.update(update);
        for (const one of frame.value.cancels) this.cancel(one.runId, one.fence);
        for (const one of frame.value.drops) this.drop(one);
        break;
      case "checkpointPage": {
        const { runId, fence, checkpoints, last } = frame.value;
        const found = this.arriving.get(idHex(runId));
        if (found?.start.fence !== fence) break;
        found.checkpoints.push(...checkpoints);
        if (last) this.begin(found.start, found.checkpoints);
        break;
      }
      case "renewed": {
        const sentAt = this.renewals.get(frame.value.nonce);
        const until = (sentAt ?? -Infinity) + milliseconds(this.terms!.lease);
        this.leaseUntil = Math.max(this.leaseUntil, until);
        this.renewals.delete(frame.value.nonce);
        break;
      }
      default: // goAway: this worker waits for the end of the stream. Others are of a later version.
    }
    this.changed();
  }

  private deliver(delivery: Delivery): void {
    // In the order of the fields: it is part of the protocol.
    for (const update of delivery.updates) this.update(update);
    if (delivery.committed !== undefined) {
      const { upTo, refused } = delivery.committed;
      for (const refusal of refused) this.executions.get(idHex(refusal.runId))?.refused(refusal);
      const isRefused = ({ runId, fence, number }: Report) =>
        refused.some((one) => one.number === number && one.fence === fence && idHex(one.runId) === idHex(runId));
      while (this.frames[0] !== undefined && this.frames[0].number <= upTo) {
        for (const report of this.frames.shift()!.reports) {
          if (!isRefused(report)) this.executions.get(idHex(report.runId))?.committed(report.fence, report.number);
        }
      }
    }
    for (const one of delivery.cancels) this.cancel(one.runId, one.fence);
    for (const one of delivery.drops) this.drop(one);
    for (const one of delivery.resumes) this.resume(one);
    for (const one of delivery.starts) this.start(one);
  }

  // -- runs

  private update({ runId, fence, checkpoint }: CheckpointUpdate): void {
    const found = this.executions.get(idHex(runId));
    if (found?.fence === fence && checkpoint !== undefined) found.update(checkpoint);
  }

  private cancel(runId: Uint8Array, fence: bigint): void {
    const found = this.executions.get(idHex(runId));
    if (found?.fence !== fence) {
      if (this.arriving.get(idHex(runId))?.start.fence === fence) this.arriving.delete(idHex(runId));
      return;
    }
    found.cancel();
    setTimeout(() => found.end({ case: "canceled", value: {} }), milliseconds(this.terms!.cancelGrace)).unref();
  }

  private drop({ runId, fence, reason }: Drop): void {
    const key = idHex(runId);
    const found = this.executions.get(key);
    if (found !== undefined && found.fence <= fence) {
      log("drop", { run: found.id, reason });
      found.drop();
    }
    if ((this.arriving.get(key)?.start.fence ?? fence + 1n) <= fence) this.arriving.delete(key);
  }

  private resume(resume: Resume): void {
    this.startSeq = resume.startSeq;
    const found = this.executions.get(idHex(resume.runId));
    if (found !== undefined && found.fence >= resume.fence) return;
    if (found === undefined || !found.resume(resume)) this.decline(resume.runId, resume.fence);
    else log("resume", { run: found.id, fence: Number(resume.fence) });
  }

  private start(start: Start): void {
    this.startSeq = start.startSeq;
    const key = idHex(start.runId);
    const old = this.executions.get(key);
    if (old !== undefined && old.fence >= start.fence) return;
    old?.drop();
    if (this.isDraining) this.decline(start.runId, start.fence);
    else if (start.moreCheckpoints) this.arriving.set(key, { start, checkpoints: [...start.checkpoints] });
    else this.begin(start, start.checkpoints);
  }

  private begin(start: Start, checkpoints: Checkpoint[]): void {
    const key = idHex(start.runId);
    this.arriving.delete(key);
    const execution = new Execution(start, checkpoints, this);
    log("start", { run: execution.id, fence: Number(start.fence), checkpoints: checkpoints.length });
    this.executions.set(key, execution);
    const body = this.options.tasks[start.taskId];
    if (body === undefined) {
      const error = { kind: TaskErrorKind.USER, type: "UnknownTask", message: `there is no task ${start.taskId} here` };
      execution.end({ case: "failed", value: { error } });
    } else {
      void execution.begin(body, decode(start.payload));
    }
  }

  private decline(runId: Uint8Array, fence: bigint): void {
    this.report(create(ReportSchema, { runId, fence, number: 1, transition: { case: "released", value: {} } }));
  }

  // -- reports and credit

  /** For executions. */
  report(report: Report): void {
    this.waiting.push(report);
    this.flushSoon();
  }

  /** For executions: slots may be free, a body may be gone. */
  changed(): void {
    for (const [key, one] of this.executions) if (one.state === "dropped") this.executions.delete(key);
    this.flushSoon();
  }

  /** What bodies do until they come to rest travels in one frame. */
  private flushSoon(): void {
    if (this.isFlushDue) return;
    this.isFlushDue = true;
    setImmediate(() => {
      this.isFlushDue = false;
      this.flush();
    });
  }

  private flush(): void {
    if (this.outbox === undefined) return;
    while (this.waiting.length > 0) {
      let size = 0;
      let count = 0;
      while (count < this.waiting.length && size < FRAME_BYTES) {
        size += toBinary(ReportSchema, this.waiting[count++]!).length;
      }
      const frame = { number: ++this.lastFrame, reports: this.waiting.splice(0, count) };
      this.frames.push(frame);
      this.sendFrame(frame);
    }
    this.sendCredit();
    if (this.isDraining && this.executing === 0 && this.frames.length === 0 && !this.isLeaving) {
      this.isLeaving = true;
      this.outbox.push({ case: "goodbye", value: {} });
      this.outbox.close();
    }
  }

  private sendFrame(frame: Frame): void {
    this.outbox?.push({ case: "reports", value: { frameNo: frame.number, reports: frame.reports } });
  }

  private sendCredit(): void {
    if (this.isExchanging || this.outbox === undefined) return;
    const freeSlots = this.isDraining ? 0 : Math.max(0, this.slots - this.executing);
    const freePlaces = this.isDraining ? 0 : Math.max(0, PLACES - this.executions.size - this.arriving.size);
    const credit = { freeSlots, freePlaces, afterStartSeq: this.startSeq };
    const told = `${freeSlots} ${freePlaces} ${this.startSeq}`;
    if (told === this.told) return;
    this.told = told;
    this.outbox.push({ case: "credit", value: credit });
  }

  private get slots(): number {
    return this.options.slots ?? 10;
  }

  private get executing(): number {
    return [...this.executions.values()].filter((one) => one.takesSlot).length + this.arriving.size;
  }

  // -- time

  private tick(): void {
    const now = performance.now();
    if (now >= this.leaseUntil) {
      log("hold", {});
      this.leaseUntil = Infinity;
      this.holdUntil = now + milliseconds(this.terms!.hold);
      this.outbox = undefined;
      this.stream.abort();
    } else if (now >= this.holdUntil) {
      this.holdUntil = Infinity;
      for (const one of this.executions.values()) one.end({ case: "released", value: {} });
    }
    if (this.outbox !== undefined && now >= this.renewAt) {
      this.renewAt = now + milliseconds(this.terms!.renewInterval);
      this.renewals.set(++this.nonce, now);
      this.outbox.push({ case: "renew", value: { nonce: this.nonce } });
    }
  }
}

function milliseconds(duration: { seconds: bigint; nanos: number } | undefined): number {
  return duration === undefined ? 0 : Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}

/** The `reason` of the google.rpc.ErrorInfo in an error: its first field. */
function reasonOf(error: ConnectError): string {
  for (const detail of error.details) {
    if (!("type" in detail) || detail.type !== "google.rpc.ErrorInfo") continue;
    const reader = new BinaryReader(detail.value);
    while (reader.pos < reader.len) {
      const [field, wireType] = reader.tag();
      if (field === 1) return reader.string();
      reader.skip(wireType, field);
    }
  }
  return "";
}

/** One JSON document per line on standard error. */
function log(event: string, facts: object): void {
  process.stderr.write(JSON.stringify({ event, ...facts }) + "\n");
}
