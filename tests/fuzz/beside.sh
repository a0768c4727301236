#!/bin/sh
# Runs a command, and beside it each fuzz target for a minute, as many at a time as there are cores, on what the command leaves
# idle of them (SCHED_IDLE). Fails where either does.
#   tests/fuzz/beside.sh cargo test --workspace --locked
set -eu
cd "$(dirname "$0")/../.."
log=${CARGO_TARGET_DIR:-target}/tmp/fuzz.log
mkdir -p "$(dirname "$log")"
idle='nice -n 19'
if chrt --idle 0 true 2>/dev/null; then idle='chrt --idle 0'; fi
# A group of its own, so that it ends as a whole.
apart=
if command -v setsid >/dev/null; then apart=setsid; fi

RUST_TEST_THREADS=$(getconf _NPROCESSORS_ONLN) PGOUTBOX_FUZZ_SECONDS=60 \
	$apart $idle cargo test --workspace --locked --test fuzz -- --nocapture >"$log" 2>&1 &
fuzz=$!
trap 'kill -- "${apart:+-}$fuzz" 2>/dev/null || kill "$fuzz" 2>/dev/null || true' EXIT INT TERM
# There it is the corpus alone that is tried.
PGOUTBOX_FUZZ_SECONDS=0 "$@"
if ! wait "$fuzz"; then
	cat "$log"
	exit 1
fi
grep ' in the corpus, ' "$log"
