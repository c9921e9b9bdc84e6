// node dist/src/journey.js : a worker with one task. Its effects go to a ledger that knows nothing of Holdfast.
import { appendFileSync, existsSync } from "node:fs";
import type { Run } from "./execution.js";
import { Worker } from "./worker.js";

interface Journey {
  /** Seconds. */
  wait: number;
  /** A file; the first step is not done as long as it is there. */
  gate?: string;
}

function note(run: Run, identity: string): void {
  const line = { run: run.id, identity, fence: Number(run.fence), note: String(process.pid) };
  appendFileSync(process.env["HOLDFAST_TEST_LEDGER"]!, JSON.stringify(line) + "\n");
}

async function journey(payload: unknown, run: Run): Promise<unknown> {
  const { wait, gate } = payload as Journey;
  note(run, "enter");
  const first = await run.step("first", async (number: number) => {
    note(run, "first");
    while (gate !== undefined && existsSync(gate)) {
      run.signal.throwIfAborted();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return number * 2;
  }, 21);
  await run.wait(wait);
  note(run, "after the wait");
  const second = await run.step("second", () => {
    note(run, "second");
    return "done";
  });
  return { first, second };
}

const worker = new Worker({
  addresses: (process.env["HOLDFAST_ADDRESS"] ?? "127.0.0.1:4653").split(","),
  tasks: { "typescript-journey": journey },
  apiKey: process.env["HOLDFAST_API_KEY"],
  drainMs: Number(process.env["HOLDFAST_DRAIN_TIMEOUT"] ?? 30) * 1000,
});
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => worker.drain());
await worker.run();
process.exit(0); // without letting go of parked bodies one by one
