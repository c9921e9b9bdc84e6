#!/bin/sh
# Lint the contract, and compare it with the baseline that must not be broken. Needs buf, or npx to get it.
# With --baseline: take the contract as it is now as the new baseline.
set -eu
cd "$(dirname "$0")"

if command -v buf >/dev/null 2>&1; then
  buf() { command buf "$@"; }
elif command -v npx >/dev/null 2>&1 && npx --yes "@bufbuild/buf@${BUF_VERSION}" --version >/dev/null 2>&1; then
  buf() { npx --yes "@bufbuild/buf@${BUF_VERSION}" "$@"; }
else
  echo "SKIPPED: buf lint and buf breaking (neither buf nor npx with access to the npm registry is here)" >&2
  case ",${HOLDFAST_REQUIRE:-}," in *,buf,*) exit 1 ;; esac
  exit 0
fi

if [ "${1:-}" = "--baseline" ]; then
  buf build --exclude-source-info -o baseline.binpb
  echo "protos/baseline.binpb is the contract as it is now"
  exit 0
fi

buf lint
if [ -f baseline.binpb ]; then
  buf breaking --against baseline.binpb
  echo "buf: lint clean, nothing broken since the baseline"
else
  echo "buf: lint clean; SKIPPED: buf breaking (no protos/baseline.binpb yet, \`make baseline\` makes it)" >&2
fi
