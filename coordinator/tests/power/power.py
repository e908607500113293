"""Power cuts: a real coordinator under load on a disk whose power goes, at random and at the worst moments.

    python3 -B power.py [--rounds 20] [--seed N] [--keep]

In each round the coordinator is stopped in its tracks, the disk is taken as it would be found after the cut, and the
coordinator is started on it as on a host that was started anew. Then all that was ever acknowledged must be there, nothing
half made, and `check` clean. The seed decides what is done and aimed at; what the cut hits is told per round.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import uuid

import disk
from crew import LARGE, LOGS, MIXED, UPLOADS, Crew, Wrong
from host import SMALL, Failure, OnDisk
from verdict import judge

CREWS = 4
IMAGE_MIB = 768
# A disk is used for so many cuts; then it is full enough.
CUTS_PER_DISK = 5
AIM_SECONDS = 20
class Aim:
    """What is awaited before the power goes, and by at most how much later it goes."""

    def __init__(self, weights, wanted=None, later_ms=30, rebuild=False):
        self.weights, self.wanted, self.later_ms, self.rebuild = weights, wanted, later_ms, rebuild


def event(what, *names):
    return lambda happened, path: happened == what and any(re.fullmatch(name, path) for name in names)


AIMS = {
    "any moment": Aim(MIXED),
    "checkpoint": Aim(LARGE, event("created", r".*/marker\.tmp"), later_ms=4),
    "before a checkpoint": Aim(LARGE, event("created", r".*/marker"), later_ms=1100),
    "export": Aim(LARGE, event("created", r"export/export\.tmp"), later_ms=30),
    "after an export": Aim(LARGE, event("deleted", r"log/.*\.log"), later_ms=10),
    "new segment": Aim(MIXED, event("created", r"log/.*\.log"), later_ms=3),
    "log sealing": Aim(LOGS, event("created", r"staging/.*"), later_ms=10),
    "upload": Aim(UPLOADS, event("created", r"staging/.*"), later_ms=60),
    "upload being kept": Aim(UPLOADS, event("deleted", r"staging/.*"), later_ms=5),
    "rebuild": Aim(MIXED, rebuild=True),
}  # fmt: skip

# What the coordinator says of what it has repaired.
REPAIRS = {"torn log": "torn end", "index made anew": "has been made anew"}


class Power:
    def __init__(self, folder, seed):
        self.random = random.Random(f"power {seed}")
        self.seed, self.folder, self.first = seed, folder, self.random.randrange(2)
        self.bay = disk.Bay(folder, 4 * IMAGE_MIB)
        self.coordinator = OnDisk(folder, SMALL)
        self.boot = folder / "boot_id"
        self.crews, self.disks = [], 0
        self.aims = []
        self.counts, self.calls = collections.Counter(), collections.Counter()

    # ---- One round ----

    def round(self, number):
        if number % CUTS_PER_DISK == 0:
            self.begin()
        aim = self.next_aim()
        losing = (number + self.first) % 2 == 1
        hits, acknowledged, met = self.cut_under_load(AIMS[aim], losing)
        offset = self.coordinator.log.stat().st_size
        # A disk that was away for a moment while the host went on looks as if only the process had been killed.
        same_boot = number % CUTS_PER_DISK == CUTS_PER_DISK - 1 and not AIMS[aim].rebuild
        if not same_boot:
            self.new_boot()
        if AIMS[aim].rebuild:
            hits += self.cut_in_rebuild(losing)
        self.coordinator.start()
        repaired = [what for what, text in REPAIRS.items() if text in self.coordinator.said(offset)]
        judge(self.crews)
        self.coordinator.stop()
        code, text = self.coordinator.check()
        if code != 0:
            raise Wrong(f"the store is not sound: {text}")
        self.coordinator.start()
        how = ["the disk's cache is lost" if losing else "the disk keeps all", *["same boot"] * same_boot]
        self.counts.update(["cuts", f"aimed at {aim}", *["aims that did not come"] * (not met), *how, *hits, *repaired])
        print(f"round {number + 1}: {aim}{'' if met else ' (did not come)'}, {', '.join(how)}; "
              f"{acknowledged} calls acknowledged; hit: {', '.join(hits) or 'commits only'}; "
              f"then: {', '.join(repaired) or 'nothing to repair'}", flush=True)

    def next_aim(self):
        """All of them, in a new order each time."""
        if not self.aims:
            self.aims = self.random.sample(list(AIMS), len(AIMS))
        return self.aims.pop()

    def begin(self):
        """An empty store on a new disk."""
        self.coordinator.kill()
        self.bay.new(IMAGE_MIB)
        self.coordinator.move_to(self.bay.attached.folder)
        self.new_boot()
        self.coordinator.start()
        self.disks += 1
        self.crews = [Crew(self.coordinator, f"{self.seed}-{self.disks}-{place}", MIXED) for place in range(CREWS)]
        for crew in self.crews:
            crew.settle_in()

    def new_boot(self):
        self.boot.write_text(f"{uuid.UUID(int=self.random.getrandbits(128))}\n")
        self.coordinator.show_boot(self.boot, self.bay.base)

    def cut_under_load(self, aim, losing):
        self.crews = [crew.again(aim.weights) for crew in self.crews]
        store = self.coordinator.store
        watch = disk.Watch([store, store / "export", store / "log", store / "blobs" / "staging"])
        try:
            for crew in self.crews:
                crew.go()
            time.sleep(self.random.uniform(0.3, 2))
            watch.forget()
            met = aim.wanted is None or watch.wait(aim.wanted, AIM_SECONDS) is not None
            time.sleep(self.random.uniform(0, aim.later_ms) / 1000)
            hits = self.cut(losing)
        finally:
            watch.close()
            for crew in self.crews:
                crew.end()
        if failures := [crew.failure for crew in self.crews if crew.failure]:
            raise Wrong("\n".join(failures))
        for crew in self.crews:
            self.calls.update(crew.done)
        return hits, sum(sum(crew.done.values()) for crew in self.crews), met

    def cut(self, losing):
        """Gives what was half done at that moment."""
        self.coordinator.freeze()
        hits = self.hits()
        # Whoever was answered before gets the answer to read until the coordinator is gone.
        if losing:
            self.bay.cut_losing_cache(self.coordinator.kill)
        else:
            self.bay.cut_keeping_all(self.coordinator.kill)
        self.coordinator.move_to(self.bay.attached.folder)
        return hits

    def cut_in_rebuild(self, losing):
        """The power goes once more while the index is being made anew."""
        self.coordinator.start_only()
        marker = self.coordinator.store / "marker"
        ends_at = time.monotonic() + AIM_SECONDS
        while b"rebuilding" not in (marker.read_bytes() if marker.exists() else b""):
            if time.monotonic() > ends_at or not self.coordinator.runs():
                raise Failure("the index is not made anew after a power cut")
            time.sleep(0.001)
        time.sleep(self.random.uniform(0, 0.15))
        hits = self.cut(losing)
        self.new_boot()
        return hits

    def hits(self):
        """What lies half done in the store's folder."""
        store = self.coordinator.store
        found = {
            "export being written": list((store / "export").glob("*.tmp")),
            "segment being filled": list((store / "log").glob("next.tmp")),
            "marker being written": list(store.glob("marker.tmp")),
            "staged content": list((store / "blobs" / "staging").iterdir()),
            "half an index": b"rebuilding" in (store / "marker").read_bytes(),
        }
        return [what for what, there in found.items() if there]

    def close(self):
        self.coordinator.kill()
        self.bay.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--keep", action="store_true", help="keep the folder with the log and the images")
    given = parser.parse_args()
    if what := disk.missing("mkfs.xfs"):
        print(f"SKIPPED: POWER CUTS WERE NOT TESTED; missing here: {what}", flush=True)
        return 0
    sys.setswitchinterval(0.0005)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="drover-power."))
    began, wrong, power = time.monotonic(), None, None
    print(f"{given.rounds} power cuts, seed {given.seed}", flush=True)
    try:
        power = Power(folder, given.seed)
        for number in range(given.rounds):
            power.round(number)
        print(json.dumps({"cuts": power.counts, "calls": power.calls}))
    except (Wrong, Failure) as failure:
        wrong = failure
        print(power.coordinator.last_lines(), file=sys.stderr)
    finally:
        if power:
            power.close()
        if given.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder)
    if wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
    print(f"{time.monotonic() - began:.0f} s: " + ("wrong" if wrong else "everything was as it should be"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
