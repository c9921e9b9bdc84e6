// A client in TypeScript: nothing but the generated code and a gRPC transport.
import { type Client, Code, ConnectError, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { type Run, RunStatus } from "../gen/holdfast/v1/run_pb.js";
import { RunService } from "../gen/holdfast/v1/run_service_pb.js";
import { TokenService } from "../gen/holdfast/v1/token_service_pb.js";
import { idText, newId } from "./ids.js";
import { decode, encode } from "./payload.js";

/** How a run ended. */
export interface Result {
  status: string;
  output: unknown;
  error: string;
}

/** Whether a run never changes again: COMPLETED and above are final. */
export function isFinal(status: RunStatus): boolean {
  return status >= RunStatus.COMPLETED;
}

/** A connection to a scheduler at "host:port". It is made at the first call. */
export function connectTo(address: string, apiKey?: string): Transport {
  const withKey: Interceptor = (next) => async (request) => {
    if (apiKey) request.header.set("authorization", `Bearer ${apiKey}`);
    return await next(request);
  };
  return createGrpcTransport({ baseUrl: `http://${address}`, interceptors: [withKey] });
}

export class Holdfast {
  private readonly runs: Client<typeof RunService>;
  private readonly tokens: Client<typeof TokenService>;

  constructor(transport: Transport) {
    this.runs = createClient(RunService, transport);
    this.tokens = createClient(TokenService, transport);
  }

  /** Triggers a run and returns its id, which is chosen here: the call may be repeated without making a second run. */
  async trigger(taskId: string, payload: unknown, key?: string): Promise<string> {
    const item = {
      runId: idText("run_", newId()),
      taskId,
      payload: encode(payload),
      ...(key === undefined ? {} : { idempotencyKey: { parts: [{ part: { case: "text" as const, value: key } }] } }),
    };
    const { outcomes } = await this.runs.trigger({ items: [item] });
    const outcome = outcomes[0]?.outcome;
    if (outcome?.case === "handle") return outcome.value.runId;
    throw new Error(outcome?.case === "error" ? `${outcome.value.reason}: ${outcome.value.message}` : "no outcome");
  }

  /** Waits until the run has ended. */
  async result(runId: string): Promise<Result> {
    for (;;) {
      const { run } = await this.runs.waitRun({ runId, timeout: { seconds: 60n } });
      if (run !== undefined && isFinal(run.status)) return resultOf(run);
    }
  }

  /** The states of a run as they change, the final one last. */
  async *watch(runId: string): AsyncGenerator<Run> {
    let cursor = "";
    for (;;) {
      try {
        for await (const change of this.runs.watchRuns({ target: { case: "runId", value: runId }, cursor })) {
          cursor = change.cursor;
          if (change.run === undefined) continue;
          yield change.run;
          if (isFinal(change.run.status)) return;
        }
      } catch (error) {
        if (cursor === "" || !isAway(error)) throw error;
        // The scheduler is away for a moment: go on behind the last change that was seen.
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
    }
  }

  /** Cancels a run; whether this call changed anything. */
  async cancel(runId: string): Promise<boolean> {
    return (await this.runs.cancelRun({ runId })).accepted;
  }

  /** Completes a token with data; whether this call was the first. */
  async completeToken(tokenId: string, data: unknown): Promise<boolean> {
    return (await this.tokens.completeToken({ tokenId, data: encode(data) })).won;
  }
}

function resultOf(run: Run): Result {
  return { status: RunStatus[run.status], output: decode(run.output), error: run.error?.message ?? "" };
}

function isAway(error: unknown): boolean {
  return ConnectError.from(error).code === Code.Unavailable;
}
