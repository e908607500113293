"""Compares all that is there with all that was promised."""

import threading
import traceback
import urllib.parse

from crew import Call, Client, Wrong, sha256


class Reader:
    """Reads as the administrator does."""

    def __init__(self, coordinator):
        self.client = Client(coordinator)

    def get(self, path):
        answer = self.client.send(Call("get", "GET", path))
        if answer.status != 200:
            raise Wrong(f"GET {path}: {answer.status} {answer.body[:500]}")
        return answer

    def items(self, path):
        items, cursor = [], ""
        while cursor is not None:
            page = self.get(f"{path}{'&' if '?' in path else '?'}limit=1000{cursor}").json()
            items += page["items"]
            cursor = f"&cursor={page['next_cursor']}" if page.get("next_cursor") else None
        return items


def expect(true, *what):
    if not true:
        raise Wrong(" ".join(str(part)[:2000] for part in what))


def judge(crews):
    """Each crew in a thread of its own; the first thing that is wrong is raised."""
    failures = []

    def one(crew):
        try:
            of_crew(crew)
        except Exception:  # Whatever it is: the main thread tells it.
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=one, args=(crew,)) for crew in crews]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Wrong("\n".join(failures))


def of_crew(crew):
    reader = Reader(crew.coordinator)
    nothing_half_made(reader, crew)
    ask_again(crew)
    of_process(reader, crew)
    of_jobs(reader, crew)
    of_storage(reader, crew)
    # One that was idle for a while is closed by the coordinator.
    crew.client.close()
    of_replays(crew)
    crew.client.close()
    reader.client.close()


def nothing_half_made(reader, crew):
    """What is there beyond the promises is the open call's, and whole."""
    call = crew.open
    found = {job["id"]: job for job in reader.items(f"/jobs?process={crew.name}")}
    gone = crew.jobs.keys() - found.keys()
    expect(not gone or (call and call.kind == "delete" and gone == {call.job}), crew.name, "jobs are lost:", gone)
    more = found.keys() - crew.jobs.keys()
    mark, count = call.many if call and call.many else (None, 0)
    expect(len(more) in (0, count), crew.name, len(more), "jobs are there that nobody was told of, by a call for", count)
    for id in more:
        job = reader.get(f"/jobs/{id}").json()
        expect(job["labels"] == {"mark": mark} and job["input"]["mark"] == mark, "a job is half made:", job)
        expect(reader.get(f"/jobs/{id}/events").json()["items"], "a job has no events:", id)
    numbers = {version["number"] for version in reader.items(f"/processes/{crew.name}/versions")}
    more = numbers - crew.versions.keys()
    expect(len(more) <= (1 if call and call.kind == "upload" else 0), crew.name, "has versions that nobody uploaded:", more)
    for number in numbers - crew.versions.keys():
        view = reader.get(f"/processes/{crew.name}/versions/{number}").json()
        expect(sha256(package(reader, crew, number)) == view["sha256"], "a version without its package:", view)


def ask_again(crew):
    """The open call is repeated; from now on all is known."""
    if crew.open:
        call = crew.open
        call.also = (*call.also, 404) if call.method == "DELETE" else call.also
        answer = crew.do(call)
        if call.method == "DELETE" and answer.status == 404:
            call.then(answer)


def package(reader, crew, number):
    return reader.get(f"/processes/{crew.name}/versions/{number}/package").body


def of_process(reader, crew):
    process = reader.get(f"/processes/{crew.name}").json()
    expect(process["revision"] >= crew.process["revision"], "the process is older than was told:", process, crew.process)
    for name in ("id", "name", "description"):
        expect(process[name] == crew.process[name], crew.name, name, "is", process[name], "instead of", crew.process[name])
    versions = {version["number"]: version for version in reader.items(f"/processes/{crew.name}/versions")}
    expect(versions.keys() == crew.versions.keys(), crew.name, "has the versions", versions.keys(), "not", crew.versions.keys())
    for number, version in crew.versions.items():
        found = versions[number]
        told = (found["id"], found["sha256"], found["active"])
        expect(told == (version["id"], version["sha256"], version["active"]), "a version is", found)
        expect(sha256(package(reader, crew, number)) == version["sha256"], crew.name, number, "has other bytes")
    # The key that the robot was given is good.
    crew.do(crew.heartbeat())


def of_jobs(reader, crew):
    found = {job["id"] for job in reader.items(f"/jobs?process={crew.name}")}
    expect(found == crew.jobs.keys(), crew.name, "has other jobs:", found ^ crew.jobs.keys())
    for job in crew.jobs.values():
        view = reader.get(f"/jobs/{job.id}").json()
        expect(view["input"] == job.input, job.id, "has another input:", view["input"], "instead of", job.input)
        found, told = (view["state"], view["outcome"], view["attempt"]), (job.state, job.outcome, job.attempt)
        expect(found == told, job.id, "is", found, "instead of", told)
        expect(view.get("output") == job.output, job.id, "has another output:", view.get("output"))
        expect(view["labels"] == {"mark": job.mark}, job.id, "has the labels", view["labels"])
        attempts = reader.get(f"/jobs/{job.id}/attempts?limit=1000").json()["items"]
        expect(len(attempts) == job.attempt, job.id, "has", len(attempts), "attempts")
        if job.attempt:
            of_log(reader, job)
            of_files(reader, job)


def of_log(reader, job):
    lines, page = [], {"next_seq": 1}
    while not lines or page["items"]:
        page = reader.get(f"/jobs/{job.id}/logs?from_seq={page['next_seq']}&limit=1000").json()
        lines += page["items"]
        if not page["items"]:
            break
    expect([line["seq"] for line in lines] == list(range(1, len(lines) + 1)), job.id, "has a log with gaps or doubles")
    same = [line["message"] for line in lines] == job.lines
    expect(same, job.id, "has", len(lines), "other lines than the", len(job.lines), "told")


def of_files(reader, job):
    folder = urllib.parse.quote(f"jobs/{job.id}", safe="")
    found = {file["path"]: file["sha256"] for file in reader.items(f"/storages/{folder}/files")}
    expect(found == job.files, job.id, "has the files", found, "instead of", job.files)
    for path, digest in job.files.items():
        content = reader.get(f"/storages/{folder}/files/{urllib.parse.quote(path)}").body
        expect(sha256(content) == digest, job.id, path, "has other bytes")


def of_storage(reader, crew):
    """Its files, each with its bytes, and the figures of the folder."""
    found = {file["path"]: file for file in reader.items(f"/storages/{crew.name}/files")}
    told = {path: file["sha256"] for path, file in found.items()}
    expect(told == crew.files, crew.name, "has the files", told, "instead of", crew.files)
    for path, digest in crew.files.items():
        expect(sha256(reader.get(crew.address(path)).body) == digest, crew.name, path, "has other bytes")
    folder = reader.get(f"/storages/{crew.name}").json()
    figures = (len(found), sum(file["size_bytes"] for file in found.values()))
    expect((folder["file_count"], folder["used_bytes"]) == figures, crew.name, "has the figures", folder, "not", figures)


def of_replays(crew):
    """Whoever asks again gets the first answer, byte for byte, and nothing is done."""
    for call, first in crew.replays:
        answer = crew.client.send(call)
        found, told = (answer.status, answer.body), (first.status, first.body)
        expect(found == told, call.kind, "was answered otherwise when it was repeated:", found, "instead of", told)
        expect(answer.headers.get("Idempotency-Replayed") == "true", call.kind, "was done once more")
