"""A full disk: a real coordinator under load on a small disk that somebody else fills, again and again.

    python3 -B full_disk.py [--seed N]

While there is no space every write is answered with a clear 507 and everything can be read; when there is space again,
writing goes on by itself. Nothing acknowledged is lost and nothing refused is done, also when the disk fills up during
checkpoints and exports, and when it is full at the start.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import disk
from crew import LARGE, MIXED, Crew, Wrong
from host import BIN, SMALL, Failure, OnDisk, environment
from verdict import Reader, expect, judge, of_jobs

MIB = 1 << 20
DISK_MIB = 256
CREWS = 3
WAIT_SECONDS = 40
# What must be refused at least once while the disk is full.
WRITES = ("start", "log", "artifact", "upload", "patch")
# Nothing comes to its end, so that there is always something to write to.
FULL = {"start": 4, "next": 4, "accept": 4, "log": 4, "artifact": 4, "upload": 4, "patch": 2, "heartbeat": 1}


class FullDisk:
    def __init__(self, folder, seed):
        self.random, self.folder = random.Random(f"full disk {seed}"), folder
        self.image = disk.Image(folder / "disk.img", folder / "disk").make(DISK_MIB).attach()
        self.coordinator = OnDisk(folder, SMALL)
        self.coordinator.move_to(self.image.folder)
        self.filler = self.image.folder / "somebody-elses"
        self.crews = [Crew(self.coordinator, f"{seed}-{place}", MIXED, full_is_fine=True) for place in range(CREWS)]

    # ---- What somebody else does ----

    def fill(self, left=0):
        """Takes all space but so many bytes, at once and then by pieces."""
        with open(self.filler, "ab") as file:
            while True:
                facts = os.statvfs(self.image.folder)
                want = facts.f_bavail * facts.f_frsize - left
                if want < facts.f_frsize:
                    return
                try:
                    os.posix_fallocate(file.fileno(), file.tell(), want)
                    file.seek(0, os.SEEK_END)
                except OSError:
                    # The last blocks, which the file system may need for its own lists.
                    return

    def empty(self):
        self.filler.unlink()

    # ---- Steps ----

    def work(self, weights, seconds):
        self.begin(weights)
        time.sleep(seconds)
        self.end()

    def begin(self, weights):
        self.crews = [crew.again(weights) for crew in self.crews]
        for crew in self.crews:
            crew.go()

    def end(self):
        for crew in self.crews:
            crew.end()
        if not self.coordinator.runs():
            raise Wrong(f"the coordinator ended with {self.coordinator.process.returncode}")
        if failures := [crew.failure for crew in self.crews if crew.failure]:
            raise Wrong("\n".join(failures))
        if lost := [crew.open.kind for crew in self.crews if crew.open]:
            raise Wrong(f"these got no answer: {lost}")

    def refused(self):
        done = sum((crew.done for crew in self.crews), start=type(self.crews[0].done)())
        return {kind for kind in WRITES if done[f"{kind} 507"]}

    def until(self, true, what):
        ends_at = time.monotonic() + WAIT_SECONDS
        while not true():
            if time.monotonic() > ends_at or not self.coordinator.runs():
                raise Wrong(f"{what} within {WAIT_SECONDS} s; the coordinator's exit code is {self.coordinator.process.poll()}")
            time.sleep(0.1)

    def is_written(self):
        """A write of the first crew; whether it was taken."""
        return self.crews[0].do(self.crews[0].patch()).status == 200

    def all_is_read(self):
        for crew in self.crews:
            reader = Reader(self.coordinator)
            of_jobs(reader, crew)
            reader.client.close()

    # ---- The test ----

    def filled_under_load(self, left):
        self.begin(FULL)
        self.until(lambda: all("running" in [job.state for job in list(crew.jobs.values())] for crew in self.crews), "no job ran")
        self.fill(left)
        try:
            self.until(lambda: self.refused() == set(WRITES), "not every kind of write was refused")
        except Wrong as wrong:
            raise Wrong(f"{wrong}; refused were {self.refused()}") from None
        self.end()
        self.all_is_read()
        self.empty()
        self.until(self.is_written, "writing did not go on when there was space again")
        judge(self.crews)
        told(f"filled under load up to {left} bytes: refused, read, and gone on")

    def filled_again_and_again(self, times):
        for _ in range(times):
            self.begin(LARGE)
            time.sleep(self.random.uniform(0.2, 1))
            self.fill(self.random.choice([0, 100_000, 3 * MIB]))
            time.sleep(self.random.uniform(0.2, 2))
            self.empty()
            time.sleep(self.random.uniform(0.2, 1))
            self.end()
        self.until(self.is_written, "writing did not go on when there was space again")
        judge(self.crews)
        told(f"filled {times} times during checkpoints and exports: nothing is lost")

    def full_at_the_start(self):
        self.sound()
        self.fill(4 * MIB)
        self.coordinator.start()
        expect(not self.is_written(), "a write was taken without space")
        self.all_is_read()
        self.empty()
        self.until(self.is_written, "writing did not go on when there was space again")
        judge(self.crews)
        told("nearly full at the start: read, and gone on when there was space")
        self.sound()
        self.fill()
        command = [BIN / "drover-coordinator", "run"]
        settings = environment(**self.coordinator.settings)
        began = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60, check=False)
        expect(began.returncode == 1 and "No space left on device" in began.stderr, "it does not say why it cannot start:", began)
        self.empty()
        self.coordinator.start()
        judge(self.crews)
        told("not one byte free at the start: said so, and started when there was space")

    def sound(self):
        self.coordinator.stop()
        code, text = self.coordinator.check()
        expect(code == 0, "the store is not sound:", text)

    def run(self):
        self.coordinator.start()
        for crew in self.crews:
            crew.settle_in()
        self.work(MIXED, 1)
        for left in (0, 2 * MIB):
            self.filled_under_load(left)
        self.filled_again_and_again(6)
        self.full_at_the_start()
        self.sound()

    def close(self):
        self.coordinator.kill()
        self.image.detach()


def told(text):
    print(text, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    given = parser.parse_args()
    if what := disk.missing():
        print(f"SKIPPED: A FULL DISK WAS NOT TESTED; missing here: {what}", flush=True)
        return 0
    sys.setswitchinterval(0.0005)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="drover-full."))
    began, wrong, full = time.monotonic(), None, None
    print(f"a full disk, seed {given.seed}", flush=True)
    try:
        full = FullDisk(folder, given.seed)
        full.run()
    except (Wrong, Failure) as failure:
        wrong = failure
        print(full.coordinator.last_lines(), file=sys.stderr)
        print(f"WRONG: {wrong}", file=sys.stderr)
    finally:
        if full:
            full.close()
        shutil.rmtree(folder)
    print(f"{time.monotonic() - began:.0f} s: " + ("wrong" if wrong else "everything was as it should be"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
