#!/usr/bin/env bash
# The whole line once, on this machine: a coordinator on an empty store in a temporary folder, an agent beside it,
# the process examples/invoices published, a job of it followed to its end. Then it keeps running for exploring
# until Ctrl-C, which ends all of it. With --once, or CI=true, it ends by itself, and not with 0 if anything was
# not as expected. DROVER_BIN_DIR names the folder of the binaries (default: target/release).

# Traps call the functions that seem to be called by nobody.
# shellcheck disable=SC2317
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
bin=${DROVER_BIN_DIR:-$here/../target/release}
once=false
case ${1:-} in
  --once) once=true ;;
  '') [ "${CI:-}" != true ] || once=true ;;
  *)
    echo "usage: demo.sh [--once]" >&2
    exit 2
    ;;
esac

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' plain=$'\e[0m'
else
  bold='' dim='' red='' plain=''
fi
step() { printf '\n%s▸ %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '  %s\n' "$*"; }

fail() {
  printf '\n%sThe demo failed: %s%s\n' "$red" "$*" "$plain" >&2
  for name in coordinator agent; do
    if [ -s "$place/$name.log" ]; then
      printf '\nThe last lines of the %s:\n' "$name" >&2
      tail -n 30 "$place/$name.log" >&2
    fi
  done
  exit 1
}

for name in drover-coordinator drover-agent drover; do
  if [ ! -x "$bin/$name" ]; then
    echo "$bin/$name is missing: build it with 'cargo build --release', or use 'make demo'" >&2
    exit 1
  fi
done
if ! command -v python3 >/dev/null; then
  echo "python3 is missing (the example is written in Python): install it, for example with 'apt-get install python3'" >&2
  exit 1
fi

place=$(mktemp -d "${TMPDIR:-/tmp}/drover-demo.XXXXXX")
coordinator=
agent=

# Ends a process in order, by force if it does not end within 20 seconds. Answers its exit code.
end() {
  local pid=$1 name=$2 tries=0 code=0
  kill -TERM "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 200 ]; do
    sleep 0.1
    tries=$((tries + 1))
  done
  if kill -0 "$pid" 2>/dev/null; then
    echo "  The $name does not end when asked; it is killed." >&2
    kill -KILL "$pid" 2>/dev/null || true
  fi
  wait "$pid" 2>/dev/null || code=$?
  return "$code"
}

# Whatever ends this script, nothing of it is left behind.
clean_up() {
  local code=$?
  trap - EXIT
  trap '' INT TERM HUP
  if [ -n "$agent$coordinator" ]; then step "Ending agent and coordinator"; fi
  if [ -n "$agent" ] && ! end "$agent" agent; then
    echo "  The agent did not end in order." >&2
    [ "$code" -ne 0 ] || code=1
  fi
  if [ -n "$coordinator" ] && ! end "$coordinator" coordinator; then
    echo "  The coordinator did not end in order." >&2
    [ "$code" -ne 0 ] || code=1
  fi
  rm -rf "$place"
  exit "$code"
}
trap clean_up EXIT
# Ctrl-C is the ordinary end of the demo once it explores; before that it breaks it off.
exploring=false
interrupted() {
  echo
  if $exploring; then exit 0; else exit 130; fi
}
trap interrupted INT TERM HUP

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# A key as the product makes them: the Base64 of a random GUID's text.
new_key() {
  python3 -c 'import base64, uuid; print(base64.b64encode(str(uuid.uuid4()).encode()).decode())'
}

# One member of a JSON object on standard input, as text.
member() {
  python3 -c '
import json, sys
value = json.load(sys.stdin)
for name in sys.argv[1].split("."):
    value = value[name]
print(value)' "$1"
}

is_ready() {
  python3 -c '
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    sys.exit(opener.open(sys.argv[1], timeout=2).status != 200)
except OSError:
    sys.exit(1)' "$1"
}

wait_until_ready() {
  local tries=0
  until is_ready "$DROVER_URL/readyz"; do
    kill -0 "$coordinator" 2>/dev/null || fail "the coordinator ended before it was ready"
    tries=$((tries + 1))
    [ "$tries" -lt 150 ] || fail "the coordinator was not ready within half a minute"
    sleep 0.2
  done
}

drover() { "$bin/drover" "$@"; }

step "Starting a coordinator with an empty store"
listen=127.0.0.1:$(free_port)
DROVER_URL=http://$listen
DROVER_KEY=$(new_key)
password=$(new_key)
export DROVER_URL DROVER_KEY
# Everything happens on this machine: no proxy of the environment has anything to do with it.
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
mkdir "$place/agent"
# In sessions of their own, so that Ctrl-C reaches this script alone and everything ends in the right order.
DROVER_HTTP__LISTEN=$listen DROVER_STORE__PATH=$place/store DROVER_LOG__FORMAT=text \
  DROVER_BOOTSTRAP__API_KEY=$DROVER_KEY DROVER_BOOTSTRAP__LOGIN=admin DROVER_BOOTSTRAP__PASSWORD=$password \
  setsid "$bin/drover-coordinator" run >"$place/coordinator.log" 2>&1 &
coordinator=$!
wait_until_ready
say "It listens at $DROVER_URL; its store is in $place/store."

step "Joining an agent with a one-time token"
token=$(drover --json join-token create | member token) || fail "no join token could be made"
# The agent gets no key but its own.
without_key=(env -u DROVER_KEY -u DROVER_URL)
"${without_key[@]}" "$bin/drover-agent" join --server "$DROVER_URL" --token "$token" --state "$place/agent" --name demo-robot \
  >"$place/agent.log" 2>&1 || fail "the agent could not join"
"${without_key[@]}" setsid "$bin/drover-agent" run --state "$place/agent" >>"$place/agent.log" 2>&1 &
agent=$!
say "The robot demo-robot is there."

step "Publishing the process examples/invoices"
drover process publish "$here/invoices" --label demo || fail "the process could not be published"

step "Starting a job and following it"
# The slower pace is for people, who want to see it work.
pace=8
if $once; then pace=1; fi
started=0
drover job start invoices --set delay_ms="$pace" --follow || started=$?
[ "$started" -eq 0 ] || fail "the job did not succeed (exit code $started)"

step "What it has left behind"
job=$(drover --json job list --process invoices --limit 1 | python3 -c 'import json, sys; print(json.load(sys.stdin)["items"][0]["id"])') ||
  fail "the job is not listed"
say "${bold}Output${plain} of job $job:"
drover --json job show "$job" >"$place/job.json" || fail "the job cannot be shown"
python3 - "$place/job.json" <<'PYTHON' || fail "the output of the job is not what it should be"
import json, sys
job = json.load(open(sys.argv[1], encoding="utf-8"))
output = job["output"]
print(f"    {output['checked']} invoices checked, {output['accepted']} accepted, {output['rejected']} rejected")
print("    " + ", ".join(f"{total} {currency}" for currency, total in output["totals_by_currency"].items()))
assert job["outcome"] == "succeeded", job["outcome"]
assert output["checked"] == 400 and output["accepted"] + output["rejected"] == 400, output
assert output["rejected"] >= 20, output
PYTHON
drover job download "$job" --dir "$place/artifacts" >/dev/null || fail "the artifacts cannot be downloaded"
for name in report.html rejected.csv; do
  [ -s "$place/artifacts/$name" ] || fail "the artifact $name is missing"
done
rejected=$(drover job logs "$job" --level warning | grep -c 'is rejected') || fail "the log names no rejected invoice"
say "$rejected warnings in its log: drover job logs $job --level warning"
say "${bold}Report${plain}: $place/artifacts/report.html"
say "  as an artifact: $DROVER_URL/api/v1/storages/jobs%2F$job/files/report.html"
is_ready "$DROVER_URL/docs/" || is_ready "$DROVER_URL/docs" || fail "the API documents are not served at $DROVER_URL/docs"
kill -0 "$agent" 2>/dev/null || fail "the agent has ended"

if $once; then
  step "Everything was as expected"
  exit 0
fi

step "Explore"
say "API documents: ${bold}$DROVER_URL/docs${plain}"
say "  the key to paste under Authorize: ${bold}$DROVER_KEY${plain}"
say "Command line, in another terminal:"
say "  ${dim}export DROVER_URL=$DROVER_URL DROVER_KEY=$DROVER_KEY PATH=$(cd "$bin" && pwd):\$PATH${plain}"
say "  ${dim}drover robot list; drover job list; drover job start invoices --follow${plain}"
say "Logs: $place/coordinator.log, $place/agent.log"
printf '\n%sCtrl-C ends all of it and removes %s.%s\n' "$bold" "$place" "$plain"
exploring=true
# Until Ctrl-C, or until one of both ends by itself, which it must not.
ended=0
wait -n "$coordinator" "$agent" || ended=$?
fail "the coordinator or the agent ended by itself (exit code $ended)"
