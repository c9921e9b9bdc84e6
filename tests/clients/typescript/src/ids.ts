// Ids: 16 bytes, a UUIDv7, shown as a prefix and the number in base 32 (digits 0-9a-v, 26 of them).
import { randomBytes } from "node:crypto";

/** 16 new bytes: milliseconds since the epoch first, so that ids sort by time. */
export function newId(): Uint8Array {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = 0x70 | (bytes[6]! & 0x0f);
  bytes[8] = 0x80 | (bytes[8]! & 0x3f);
  return bytes;
}

/** The text form, for example `idText("run_", bytes)`. */
export function idText(prefix: string, bytes: Uint8Array): string {
  return prefix + BigInt("0x" + idHex(bytes)).toString(32).padStart(26, "0");
}

/** Hexadecimal, as a key for maps. */
export function idHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
