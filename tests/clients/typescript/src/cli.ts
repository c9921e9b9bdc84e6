// node dist/src/cli.js COMMAND ... : the client for the tests, one JSON document per line.
import { RunStatus } from "../gen/holdfast/v1/run_pb.js";
import { connectTo, Holdfast } from "./client.js";

const [command, ...args] = process.argv.slice(2);
const address = process.env["HOLDFAST_ADDRESS"] ?? "127.0.0.1:4653";
const holdfast = new Holdfast(connectTo(address, process.env["HOLDFAST_API_KEY"]));

function argument(place: number): string {
  const found = args[place];
  if (found === undefined) throw new Error(`${command}: argument ${place + 1} is missing`);
  return found;
}

function print(document: unknown): void {
  process.stdout.write(JSON.stringify(document) + "\n");
}

switch (command) {
  case "trigger":
    print(await holdfast.trigger(argument(0), JSON.parse(args[1] ?? "null"), args[2]));
    break;
  case "result":
    print(await holdfast.result(argument(0)));
    break;
  case "watch":
    for await (const run of holdfast.watch(argument(0))) {
      const metadata: unknown = run.metadata.length === 0 ? {} : JSON.parse(new TextDecoder().decode(run.metadata));
      print({ status: RunStatus[run.status], metadata });
    }
    break;
  case "cancel":
    print(await holdfast.cancel(argument(0)));
    break;
  case "complete-token":
    print(await holdfast.completeToken(argument(0), JSON.parse(args[1] ?? "null")));
    break;
  default:
    throw new Error("commands: trigger TASK [JSON] [KEY], result|watch|cancel RUN, complete-token TOKEN [JSON]");
}
process.exit(0); // the transport keeps its connection for a while
