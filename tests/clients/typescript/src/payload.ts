// Values cross Holdfast as JSON.
import { create } from "@bufbuild/protobuf";
import { type Payload, PayloadSchema } from "../gen/holdfast/v1/payload_pb.js";

/** A value as a payload. JSON has no NaN and no undefined: the first is refused, the second becomes null. */
export function encode(value: unknown): Payload {
  const text = JSON.stringify(value ?? null, (_key, one: unknown) => {
    if (typeof one === "number" && !Number.isFinite(one)) throw new TypeError(`${one} is not a JSON value`);
    return one;
  });
  return create(PayloadSchema, { data: new TextEncoder().encode(text) });
}

/** The value of a payload; an empty or missing one is null. */
export function decode(payload: Payload | undefined): unknown {
  if (payload === undefined || payload.data.length === 0) return null;
  return JSON.parse(new TextDecoder().decode(payload.data));
}
