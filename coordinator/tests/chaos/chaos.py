"""Chaos on one host: coordinator and agents are killed, stopped and frozen and the network between them fails, while jobs run.

    python3 -B chaos.py [--rounds 200] [--seed N] [--keep]

Each round does one thing at random to the fleet. At the end all is made good again, and within a bound every job must have
ended, exactly once and with all that it has left. The seed decides what is done; when it hits whom is up to the host.
"""

import argparse
import collections
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import processes
from network import Network
from people import People
from verdict import Record, Verdict
from world import BIN, HERE, Agent, Api, Coordinator, Failure, environment

# Once nothing is disturbed any more, everything must have come to its end.
END_SECONDS = 150


class Chaos:
    def __init__(self, folder, seed):
        self.random = random.Random(f"faults {seed}")
        self.network = Network()
        self.coordinator = Coordinator(folder, self.network)
        self.agents = [Agent(f"agent-{number}", folder, self.network) for number in (1, 2)]
        self.api = Api(self.coordinator)
        self.record = folder / "record"
        self.record.mkdir()
        self.people = People(self.api, self.record, seed)
        self.folder = folder
        self.done = collections.Counter()

    def begin(self):
        self.coordinator.start()
        retry = {"max_attempts": 3, "on": ["failed", "lost"], "delay_seconds": 0}
        for name, more in ("once", {}), ("again", {"retry": retry}):
            self.api.call("POST", "/processes", {"name": name, "defaults": {"stop_grace_seconds": 1} | more})
            command = [BIN / "drover", "process", "publish", HERE / "robot", "--name", name]
            to = {"DROVER_URL": f"http://127.0.0.1:{self.coordinator.port}", "DROVER_KEY": self.coordinator.key}
            subprocess.run(command, env=environment(**to), check=True, capture_output=True, timeout=60)
        self.token = self.api.call("POST", "/join-tokens", {"uses": len(self.agents)})["token"]
        for agent in self.agents:
            agent.join(self.token)
            agent.start()
        self.people.start()

    # Each of these leaves all programs running and the network as it was, or lets `heal` do that.

    def kill_coordinator(self):
        self.coordinator.kill()
        self.wait(0, 1, 5)
        self.coordinator.start()

    def kill_agent(self):
        agent = self.random.choice(self.agents)
        agent.kill()
        self.wait(0, 2, 9)
        agent.start()

    def crash_host(self):
        agent = self.random.choice(self.agents)
        agent.crash_host()
        self.wait(0, 1, 8)
        agent.start()

    def kill_both(self):
        programs = [self.coordinator, *self.random.sample(self.agents, self.random.choice([1, 2]))]
        self.random.shuffle(programs)
        for program in programs:
            program.kill()
        self.random.shuffle(programs)
        for program in programs:
            self.wait(0, 0.5, 5)
            program.start()

    def kill_agent_in_quick_succession(self):
        """Most of what an agent promises is promised in the moments after its start."""
        agent = self.random.choice(self.agents)
        for _ in range(5):
            agent.kill()
            agent.start()
            self.wait(0, 0.3, 0.3)

    def restart_coordinator(self):
        self.coordinator.stop()
        self.coordinator.start()

    def restart_agent(self):
        """Drains, then stops its jobs, then quits."""
        agent = self.random.choice(self.agents)
        for _ in range(3):
            agent.signal(signal.SIGTERM)
            if agent.wait(self.random.uniform(0, 3)) is not None:
                break
        code = agent.wait(10)
        if code != 0:
            raise Failure(f"{agent.name} ended with {code} when it was asked to")
        agent.start()

    def freeze(self):
        program = self.random.choice([self.coordinator, *self.agents])
        program.signal(signal.SIGSTOP)
        self.wait(0, 2, 9)
        program.signal(signal.SIGCONT)

    def cut(self):
        self.network.cut()
        self.wait(0, 2, 9)

    def stall(self):
        self.network.stall()
        self.wait(0, 2, 9)

    def lose_answers(self):
        self.network.lose_answers()
        self.wait(0, 2, 4)

    def half_close(self):
        for _ in range(3):
            self.network.half_close(self.random)
            self.wait(0, 0.3, 0.3)

    def forget_connections(self):
        self.network.forget()
        self.wait(0, 2, 4)

    FAULTS = {
        kill_coordinator: 5,
        kill_agent: 5,
        crash_host: 2,
        kill_both: 3,
        kill_agent_in_quick_succession: 2,
        restart_coordinator: 2,
        restart_agent: 2,
        freeze: 2,
        cut: 3,
        stall: 2,
        lose_answers: 3,
        half_close: 2,
        forget_connections: 1,
    }

    def wait(self, least, usual, longest):
        """Mostly short; sometimes so long that leases run out and jobs are given up."""
        most = longest if self.random.random() < 0.2 else usual
        time.sleep(self.random.uniform(least, most))

    def round(self):
        fault = self.random.choices(list(self.FAULTS), self.FAULTS.values())[0]
        self.done.update([fault.__name__])
        fault(self)
        self.network.heal()
        self.wait(0, 1.5, 3)
        if self.people.failure:
            raise Failure(self.people.failure)
        for program in [self.coordinator, *self.agents]:
            if not program.runs():
                raise Failure(f"{program.name} ended by itself with {program.process.returncode}")
        if doubles := Record(self.record).doubles():
            raise Failure(f"recorded twice: {doubles}")

    def job_processes(self):
        """Processes of jobs and their supervisors."""
        return processes.of_jobs(id for id, _ in self.people.started.values()) + processes.supervisors(self.folder)

    def come_to_the_end(self):
        """All that is under way ends within the bound, and nothing of it stays on the hosts."""
        failure = self.people.end()
        self.network.heal_whole()
        if failure:
            raise Failure(failure)
        ends_at = time.monotonic() + END_SECONDS
        while True:
            unfinished = [job for job in self.api.items("/jobs") if job["state"] != "finished"]
            left = [path for agent in self.agents for path in agent.left_behind()]
            running = self.job_processes()
            if not (unfinished or left or running):
                return
            if time.monotonic() > ends_at:
                unfinished = [(job["id"], job["state"], job["robot_name"]) for job in unfinished]
                raise Failure(f"after {END_SECONDS} s: unfinished {unfinished}, on the hosts {left}, "
                                  f"processes {processes.told(running)}")
            time.sleep(0.3)

    def judge(self):
        """Asks for all that is left, ends the programs in order, and says what is wrong."""
        keys = {agent.key() for agent in self.agents} | {self.coordinator.key, self.token}
        verdict = Verdict(self.api, Record(self.record), self.people.started, self.done["crash_host"], keys)
        verdict.of_jobs()
        for agent in self.agents:
            agent.signal(signal.SIGTERM)
            verdict.expect(agent.wait(30) == 0, agent.name, "did not end in order")
        self.coordinator.stop()
        code, text = self.coordinator.check()
        verdict.expect(code == 0, "the store is not sound:", text)
        for program in [self.coordinator, *self.agents]:
            verdict.of_program(program.log)
        return verdict

    def close(self):
        """Whatever has happened, nothing of this stays on the host."""
        self.people.enough.set()
        for program in [*self.agents, self.coordinator]:
            program.kill()
        self.network.close()
        for _ in range(100):
            for pid in (found := self.job_processes()):
                processes.send(pid, signal.SIGKILL)
            if not found:
                break
            time.sleep(0.05)


def told(chaos):
    """The last words of the programs, for whoever has to find the cause."""
    for program in [chaos.coordinator, *chaos.agents]:
        text = program.log.read_text(errors="replace") if program.log.exists() else ""
        print(f"\nThe last lines of {program.log.name}:\n" + "\n".join(text.splitlines()[-15:]), file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--keep", action="store_true", help="keep the folder with stores and logs")
    given = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="drover-chaos."))
    chaos = Chaos(folder, given.seed)
    complaints, began = [], time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"{given.rounds} rounds, seed {given.seed}", flush=True)
    try:
        try:
            chaos.begin()
            for number in range(1, given.rounds + 1):
                chaos.round()
                if number % 20 == 0:
                    print(f"{number} rounds, {len(chaos.people.started)} jobs, {time.monotonic() - began:.0f} s", flush=True)
            chaos.come_to_the_end()
            verdict = chaos.judge()
            complaints = verdict.complaints
            print(json.dumps(chaos.done | verdict.counts))
        except Failure as failure:
            complaints = [str(failure)]
            told(chaos)
    finally:
        chaos.close()
        if given.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for complaint in complaints:
        print(f"WRONG: {complaint}", file=sys.stderr)
    print(f"{time.monotonic() - began:.0f} s: " + ("wrong" if complaints else "everything was as it should be"))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
