#!/usr/bin/env bash
# A tour of the whole line on this machine: a coordinator on an empty store in a temporary folder, three agents beside it,
# and both processes of examples/invoices. A schedule loads a file into a queue, a queue trigger has all three robots work
# it off, and a job that fails raises an alert, which goes to a webhook. Then it keeps running for exploring until Ctrl-C,
# which ends all of it. With --once, or CI=true, it ends by itself, and not with 0 if anything was not as expected.
# DROVER_BIN_DIR names the folder of the binaries (default: target/release).

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
  for name in coordinator robot-1 robot-2 robot-3; do
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
receiver=
agents=()

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
  if [ -n "$coordinator" ]; then step "Ending agents and coordinator"; fi
  for agent in "${agents[@]}"; do
    if ! end "$agent" agent; then
      echo "  An agent did not end in order." >&2
      [ "$code" -ne 0 ] || code=1
    fi
  done
  if [ -n "$coordinator" ] && ! end "$coordinator" coordinator; then
    echo "  The coordinator did not end in order." >&2
    [ "$code" -ne 0 ] || code=1
  fi
  if [ -n "$receiver" ]; then
    kill -TERM "$receiver" 2>/dev/null || true
    wait "$receiver" 2>/dev/null || true
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
# In sessions of their own, so that Ctrl-C reaches this script alone and everything ends in the right order.
DROVER_HTTP__LISTEN=$listen DROVER_STORE__PATH=$place/store DROVER_LOG__FORMAT=text \
  DROVER_WEBHOOKS__ALLOW_PRIVATE_TARGETS=true \
  DROVER_BOOTSTRAP__API_KEY=$DROVER_KEY DROVER_BOOTSTRAP__LOGIN=admin DROVER_BOOTSTRAP__PASSWORD=$password \
  setsid "$bin/drover-coordinator" run >"$place/coordinator.log" 2>&1 &
coordinator=$!
wait_until_ready
say "It listens at $DROVER_URL; its store is in $place/store."

step "Joining three agents"
token=$(drover --json join-token create --uses 3 | member token) || fail "no join token could be made"
# The agents get no key but their own.
without_key=(env -u DROVER_KEY -u DROVER_URL)
for robot in robot-1 robot-2 robot-3; do
  mkdir "$place/$robot"
  "${without_key[@]}" "$bin/drover-agent" join --server "$DROVER_URL" --token "$token" --state "$place/$robot" \
    --name "$robot" >"$place/$robot.log" 2>&1 || fail "the agent $robot could not join"
  "${without_key[@]}" setsid "$bin/drover-agent" run --state "$place/$robot" >>"$place/$robot.log" 2>&1 &
  agents+=("$!")
done
say "The robots robot-1, robot-2 and robot-3 are there."

step "Publishing two processes, and making the queue between them"
for process in load work; do
  drover process publish "$here/invoices/$process" --label demo || fail "a process could not be published"
done
drover queue create invoices --unique-references --description "Invoices of suppliers" || fail "the queue could not be made"

# The slower pace is for people, who want to see it work.
pace=60
if $once; then pace=15; fi
step "A trigger that has robots work while tasks wait: one for each hundred, at most three"
drover trigger create work-off --process invoices-work --for-queue invoices --tasks-per-job 100 --max-jobs 3 \
  --set delay_ms="$pace" || fail "the queue trigger could not be made"

step "A schedule that loads the file twice: references are unique, so the second time adds nothing"
drover trigger create load --process invoices-load --every 1s --max-runs 2 || fail "the schedule could not be made"

# How many tasks the queue has had, how many are not done, and all figures of it for people.
figures() {
  drover --json queue stats invoices | python3 -c '
import json, sys
counts = json.load(sys.stdin)["counts"]
shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
print(sum(counts.values()), counts["new"] + counts["in_progress"], "  " + (shown or "nothing yet"))'
}
total=0
left=1
tries=0
while [ "$total" -lt 395 ] || [ "$left" -gt 0 ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 600 ] || fail "the queue is not loaded and worked off"
  sleep 0.5
  read -r total left shown <<<"$(figures)" || fail "the figures of the queue cannot be had"
  say "$shown"
done
drover queue stats invoices

step "What came of it"
# All jobs of one process, one on a line, when all of them have ended.
ended_jobs() {
  local process=$1 least=$2 tries=0
  until drover --json job list --process "$process" --limit 100 | python3 -c '
import json, sys
jobs = json.load(sys.stdin)["items"]
for job in jobs:
    print(json.dumps(job))
sys.exit(len(jobs) < int(sys.argv[1]) or any(job["state"] != "finished" for job in jobs))' "$least" >"$place/jobs"; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || fail "the jobs of $process do not end"
    sleep 0.1
  done
  while read -r job; do
    drover --json job show "$(member id <<<"$job")" || fail "a job cannot be shown"
  done <"$place/jobs"
}
ended_jobs invoices-load 2 >"$place/load.json"
ended_jobs invoices-work 3 >"$place/work.json"
drover task export --queue invoices --output "$place/invoices.ndjson" >/dev/null || fail "the tasks cannot be exported"
python3 - "$place" <<'PYTHON' || fail "the result is not what it should be"
import collections, decimal, json, sys
def objects(name):
    text, found, decoder = open(f"{sys.argv[1]}/{name}", encoding="utf-8").read().strip(), [], json.JSONDecoder()
    while text:
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:].lstrip()
    return found
loads, jobs, tasks = objects("load.json"), objects("work.json"), objects("invoices.ndjson")
assert sorted(job["output"]["added"] for job in loads) == [0, 395], loads
assert all(job["source"]["kind"] == "trigger" for job in loads + jobs), "triggers have started all of them"
for job in jobs:
    output = job["output"]
    print(f"    {job['robot_name']}: {output['succeeded']} booked, {output['failed']} refused")
    assert job["outcome"] == "succeeded", job
totals = collections.Counter()
for task in tasks:
    if task["state"] == "succeeded":
        totals[task["output"]["currency"]] += decimal.Decimal(task["output"]["booked"])
print("    " + ", ".join(f"{total} {currency}" for currency, total in sorted(totals.items())))
states = collections.Counter(task["state"] for task in tasks)
assert len(tasks) == 395 and states["failed"] >= 20 and states["succeeded"] + states["failed"] == 395, states
assert sum(job["output"]["succeeded"] for job in jobs) == states["succeeded"], "each task is worked on by one robot"
assert len({job["robot_name"] for job in jobs if job["output"]["succeeded"]}) >= 2, "several robots have worked"
PYTHON

step "What a person has to look at: invoices that the rules of bookkeeping refuse"
drover task list --queue invoices --state failed --error business --limit 5 || fail "the failed tasks are not listed"
say "All of them as a table: drover task export --queue invoices --state failed --output refused.csv"

step "An alert: a job fails, and a webhook is told"
called=$place/called.json
port=$(free_port)
python3 - "$port" "$called" <<'PYTHON' &
import http.server, os, sys
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open(sys.argv[2] + ".part", "wb") as file:
            file.write(body)
        os.replace(sys.argv[2] + ".part", sys.argv[2])
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
PYTHON
receiver=$!
drover webhook create receiver --url "http://127.0.0.1:$port/" --event alert.raised >/dev/null || fail "the webhook could not be made"
drover alert create failures --when job_failed --webhook receiver || fail "the alert could not be made"
mkdir "$place/broken"
printf '[process]\nname = "broken"\n\n[run]\ncommand = ["sh", "main.sh"]\n' >"$place/broken/process.toml"
printf 'echo "the price list is missing" >&2\nexit 3\n' >"$place/broken/main.sh"
drover process publish "$place/broken" >/dev/null || fail "the process could not be published"
if drover job start broken --follow; then fail "a job that must fail did not"; fi
tries=0
until [ -s "$called" ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 100 ] || fail "the alert did not reach the webhook"
  sleep 0.1
done
say "The webhook got: $(member type <"$called"): $(member data.text <"$called")"
drover alert raised || fail "what was raised is not listed"

step "The first page"
drover overview || fail "the overview cannot be had"
is_ready "$DROVER_URL/docs/" || is_ready "$DROVER_URL/docs" || fail "the API documents are not served at $DROVER_URL/docs"
for agent in "${agents[@]}"; do kill -0 "$agent" 2>/dev/null || fail "an agent has ended"; done

if $once; then
  step "Everything was as expected"
  exit 0
fi

step "Explore"
say "API documents: ${bold}$DROVER_URL/docs${plain}"
say "  the key to paste under Authorize: ${bold}$DROVER_KEY${plain}"
say "Command line, in another terminal:"
say "  ${dim}export DROVER_URL=$DROVER_URL DROVER_KEY=$DROVER_KEY PATH=$(cd "$bin" && pwd):\$PATH${plain}"
say "  ${dim}drover robot list; drover job list; drover queue show invoices; drover task list --queue invoices${plain}"
say "  ${dim}drover trigger history work-off; drover task bulk retry --queue invoices --state failed; drover alert raised${plain}"
say "Logs: $place/coordinator.log, $place/robot-1.log …"
printf '\n%sCtrl-C ends all of it and removes %s.%s\n' "$bold" "$place" "$plain"
exploring=true
# Until Ctrl-C, or until one of both ends by itself, which it must not.
ended=0
wait -n "$coordinator" "${agents[@]}" || ended=$?
fail "the coordinator or an agent ended by itself (exit code $ended)"
