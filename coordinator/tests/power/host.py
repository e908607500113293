"""The coordinator on a host whose disk is its own, and on which nothing happens by itself but what is to be disturbed."""

import contextlib
import pathlib
import shutil
import signal
import sys
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "chaos"))

from world import BIN, Coordinator, Failure, environment

__all__ = ["BIN", "SMALL", "Failure", "OnDisk", "environment"]

# All that happens once a minute or every 64 MiB happens all the time.
SMALL = {"SEGMENT_MIB": "2", "CHECKPOINT_MIB": "1", "CHECKPOINT_SECONDS": "1", "EXPORT_MIB": "1", "CACHE_MIB": "16"}
# No job is given up by itself: what was told last stays true.
PATIENT = {"JOB_SECONDS": "86400", "ACCEPT_SECONDS": "86400", "LOST_AFTER_SECONDS": "86400", "HEARTBEAT_SECONDS": "20"}


class Fixed:
    """Stands where other tests have a network that can be disturbed."""

    target = None


class OnDisk(Coordinator):
    """A coordinator whose store lies on a disk of its own, on a host that says when it was started."""

    def __init__(self, folder, settings):
        super().__init__(folder, Fixed())
        self.settings |= {f"DROVER_STORE__{name}": value for name, value in settings.items()}
        self.settings |= {f"DROVER_LEASES__{name}": value for name, value in PATIENT.items()}

    def move_to(self, folder):
        self.store = folder / "store"
        self.settings["DROVER_STORE__PATH"] = str(self.store)

    def show_boot(self, boot, hide):
        """Only this process sees it. It also must not hold on to what is mounted elsewhere."""
        script = 'umount "$1" && mount --bind "$2" /proc/sys/kernel/random/boot_id && exec "$3" run'
        program = BIN / "drover-coordinator"
        self.arguments = [shutil.which("unshare"), "--mount", "sh", "-c", script, "-", str(hide), str(boot), str(program)]

    def start_only(self):
        """Without waiting until it listens."""
        super(Coordinator, self).start()

    def freeze(self):
        """Nobody gets an answer any more; what a thread had asked of the disk may still be under way."""
        self.signal(signal.SIGSTOP)
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task")
        for _ in range(2000):
            # One that ends just now is not there any more.
            with contextlib.suppress(OSError):
                states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()]
                if all(state in "TtD" for state in states):
                    return
            time.sleep(0.001)
        raise Failure("the coordinator does not stand still")

    def kill(self):
        super().kill()
        self.port = None

    def said(self, offset):
        with open(self.log, "rb") as log:
            log.seek(offset)
            return log.read().decode()

    def last_lines(self):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\nThe last lines of the coordinator:\n" + "\n".join(text.splitlines()[-15:])
