"""What must be true at the end: compares what the coordinator tells with what the jobs have recorded outside of it."""

import collections
import hashlib
import json
import re
import urllib.parse

LINE = re.compile(r"line (\d+) (x*)$")
# An attempt with one of these causes ended without its agent's word, or its host crashed with lines on their way: its log may
# be a beginning only.
WITHOUT_WORD = {"robot_silent", "end_unconfirmed", "agent_restarted"}


class Record:
    """What the jobs themselves have written down."""

    def __init__(self, folder):
        self.folder = folder
        self.told = collections.defaultdict(list)
        self.tokens = collections.defaultdict(set)  # The keys of each job's attempts.
        starts = folder / "starts"
        for line in starts.read_text().splitlines() if starts.exists() else []:
            line = json.loads(line)
            self.told[line["job"], line["attempt"], line["what"]].append(line)
            self.tokens[line["job"]].update([line["token"]] if "token" in line else [])

    def printed(self, job, attempt):
        """At least and at most so many lines."""
        file = self.folder / f"{job}-{attempt}"
        marks = file.read_bytes() if file.exists() else b""
        return marks.count(b"|"), marks.count(b".")

    def doubles(self):
        return [key for key, lines in self.told.items() if len(lines) > 1]


class Verdict:
    def __init__(self, api, record, started, crashes, keys):
        self.api, self.record, self.started, self.crashes, self.keys = api, record, started, crashes, keys
        self.complaints = []
        self.counts = collections.Counter()

    def expect(self, true, *what):
        if not true:
            self.complaints.append(" ".join(str(part) for part in what))

    def of_jobs(self):
        """Everything that is asked of the coordinator."""
        jobs = {job["id"]: job for job in self.api.items("/jobs")}
        wanted = {id: label for label, (id, _) in self.started.items()}
        self.expect(jobs.keys() == wanted.keys(), "jobs that nobody started or that are gone:", jobs.keys() ^ wanted.keys())
        self.expect(len(wanted) == len(self.started), "two starts gave the same job")
        for key in self.record.doubles():
            self.expect(False, "recorded twice:", key)
        for id, label in wanted.items():
            if id in jobs:
                self.of_job(jobs[id], self.started[label][1])

    def of_job(self, job, given):
        id = job["id"]
        job = self.api.call("GET", f"/jobs/{id}")
        events = collections.Counter(event["code"] for event in self.api.call("GET", f"/jobs/{id}/events")["items"])
        attempts = self.api.call("GET", f"/jobs/{id}/attempts?limit=1000")["items"]
        self.expect(job["state"] == "finished", id, "is", job["state"])
        ends = 1 + events["retry_asked"]
        self.expect(events["finished"] == ends, id, "finished", events["finished"], "times instead of", ends, events)
        numbers = [attempt["attempt"] for attempt in attempts]
        self.expect(numbers == list(range(1, job["attempt"] + 1)), id, "has attempts", numbers)
        self.counts.update(["jobs", job["outcome"] or job["state"]])
        self.counts.update({code: events[code] for code in ("robot_silent", "robot_came_back", "retried", "late_report", "not_accepted")})
        for attempt in attempts:
            self.of_attempt(id, attempt, given)
        if job["outcome"] == "succeeded":
            self.of_results(job, given)
        self.of_outcome(job, given, events)

    def of_attempt(self, id, attempt, given):
        number, cause = attempt["attempt"], attempt["cause"] or {}
        self.counts.update(["attempts"])
        self.expect(attempt["ended_at"], id, number, "has no end")
        page, lines = {"complete": False, "next_seq": 1}, []
        while True:
            page = self.api.call("GET", f"/jobs/{id}/logs?attempt={number}&from_seq={page['next_seq']}&limit=1000")
            lines += page["items"]
            if not page["items"]:
                break
        self.expect(page["complete"], id, number, "has a log that is not complete")
        seqs = [line["seq"] for line in lines]
        self.expect(seqs == list(range(1, len(seqs) + 1)), id, number, "has a log with gaps or doubles:", seqs[:50])
        found = [match for line in lines if (match := LINE.match(line["message"]))]
        numbers = [int(match[1]) for match in found]
        self.expect(numbers == list(range(1, len(numbers) + 1)), id, number, "printed other lines:", numbers[:50])
        self.expect(all(len(match[2]) == given["width"] for match in found), id, number, "has lines that are cut")
        least, most = self.record.printed(id, number)
        unheard = cause.get("code") in WITHOUT_WORD or "did not confirm" in cause.get("message", "")
        if not attempt["outcome"] or unheard:
            least = 0
        self.expect(least <= len(numbers) <= most, id, number, f"printed {least} to {most} lines, has {len(numbers)}", cause)
        started = bool(self.record.told[id, number, "start"])
        self.expect(not (started and not attempt["accepted_at"]), id, number, "ran without being accepted")
        self.counts.update(lines=len(numbers), unheard=unheard)
        self.of_secrets(f"{id} {number}", json.dumps(lines), self.record.tokens[id])

    def of_results(self, job, given):
        """Of a job that has succeeded: what it wrote in its last attempt, and nothing else."""
        id, attempt = job["id"], job["attempt"]
        wanted = {"job": id, "attempt": attempt, "lines": given["lines"]}
        self.expect(job["output"] == wanted, id, "has the output", job["output"])
        self.expect(self.record.told[id, attempt, "end"], id, attempt, "has succeeded without having ended")
        folder = f"/storages/jobs%2F{id}/files"
        files = {file["path"]: file["sha256"] for file in self.api.items(folder)}
        contents = {
            f"отчёты & 100%/report {number}.txt": f"{id} {attempt} {number}\n".encode() * 2000
            for number in range(100 if given["mode"] == "many" else 1)
        }
        wanted = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
        self.expect(files == wanted, id, "has the artifacts", files)
        path, content = min(contents.items())
        if path in files:
            got = self.api.call("GET", f"{folder}/{urllib.parse.quote(path)}")
            self.expect(got == content, id, "has an artifact that reads differently")

    def of_outcome(self, job, given, events):
        """Nothing ends otherwise than it should without somebody having asked for that."""
        id, outcome, code = job["id"], job["outcome"], (job["cause"] or {}).get("code")
        asked = events["stop_asked"] or events["abort_asked"] or code in ("stop_requested", "abort_requested")
        fails = given["mode"] == "fail" or (given["mode"] == "fail_once" and job["attempt"] == 1)
        right = {
            "succeeded": not fails and code == "completed",
            "failed": fails and code == "exit_code",
            "stopped": asked or code == "agent_stopped",
            "aborted": asked or code in ("agent_stopped", "stop_grace_exceeded"),
            "lost": code == "robot_silent" or (code == "agent_restarted" and self.crashes > 0),
            "timed_out": False,
        }
        self.expect(right.get(outcome), id, "mode", given["mode"], "ended as", outcome, job["cause"], job["error"])

    def of_program(self, log):
        text = log.read_text(errors="replace")
        self.of_secrets(log.name, text, set().union(*self.record.tokens.values()))
        self.expect("panicked" not in text, "something panicked:", log.name)

    def of_secrets(self, name, text, tokens):
        """Keys are in no log, neither of a program nor of a job."""
        self.expect(not any(secret in text for secret in self.keys | tokens), "a secret is in the log of", name)
