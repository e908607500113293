"""Disks whose power can be cut: ext4 on a loop device, whose image lies on an XFS that is itself on a loop device.

There are two ways to lose power. Either the disk keeps all that it was sent: the image is cloned as it is at that moment.
Or it has a cache of its own and keeps only what it was told to flush: the XFS below is shut down with all that has not
reached its own disk, and what the loop device was not told to flush is gone.
"""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import select
import shutil
import struct
import subprocess
import time

# From linux/fs/xfs: end at once, without writing even the log.
XFS_IOC_GOINGDOWN = 0x8004587D
GOING_NOLOGFLUSH = struct.pack("I", 2)
IN_CREATE, IN_MOVED_TO, IN_MOVED_FROM, IN_DELETE = 0x100, 0x80, 0x40, 0x200
EVENT = struct.Struct("iIII")


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def unmount(folder):
    """Whoever looks into it for a moment, as programs of a desktop do, is waited for."""
    for left in reversed(range(50)):
        try:
            return run("umount", folder)
        except RuntimeError:
            if left == 0:
                raise
            time.sleep(0.1)


def missing(*tools):
    """What is missing on this machine for disks of one's own, in words; nothing if they can be had."""
    if os.geteuid() != 0:
        return "the rights of root"
    for tool in ("losetup", "mkfs.ext4", "mount", "unshare", *tools):
        if not shutil.which(tool):
            return f"the program {tool}"
    for command, what in ((["losetup", "--find"], "loop devices"), (["unshare", "--mount", "true"], "mount namespaces")):
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return what
    return None


class Image:
    """A small disk: a file, mounted as ext4 on a folder while it is attached."""

    def __init__(self, path, folder):
        self.path, self.folder = path, folder
        self.folder.mkdir(exist_ok=True)
        self.device = None

    def make(self, mib):
        with open(self.path, "wb") as file:
            file.truncate(mib << 20)
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.path)
        return self

    def attach(self):
        """Mounts it; after a power cut the file system replays its journal now."""
        self.device = run("losetup", "--find", "--show", self.path)
        run("mount", "-t", "ext4", self.device, self.folder)
        return self

    def detach(self):
        if self.device is None:
            return
        if os.path.ismount(self.folder):
            unmount(self.folder)
        run("losetup", "--detach", self.device)
        self.device = None


class Bay:
    """Where the disks are plugged in."""

    def __init__(self, folder, mib):
        self.folder, self.base, self.image = folder, folder / "xfs", folder / "xfs.img"
        self.base.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(mib << 20)
        self.images = 0
        self.attached = None
        self.device = None
        try:
            run("mkfs.xfs", "-q", "-m", "reflink=1", self.image)
            self.device = run("losetup", "--find", "--show", self.image)
            run("mount", "-t", "xfs", self.device, self.base)
        except BaseException:
            self.close()
            raise

    def _next(self):
        self.images += 1
        return Image(self.base / f"disk-{self.images}", self.folder / f"mnt-{self.images}")

    def new(self, mib):
        """A new empty disk in the place of the one before."""
        self._unplug()
        self.attached = self._next().make(mib).attach()

    def cut_keeping_all(self, ended):
        """The power goes, the disk keeps all that it was sent. `ended` ends whoever uses it, afterwards."""
        clone = self._next()
        run("cp", "--reflink=always", self.attached.path, clone.path)
        ended()
        self._unplug()
        self.attached = clone.attach()

    def cut_losing_cache(self, ended):
        """The power goes, the disk loses all that it was not told to flush."""
        with contextlib.closing(_Folder(self.base)) as base:
            fcntl.ioctl(base.number, XFS_IOC_GOINGDOWN, GOING_NOLOGFLUSH)
        ended()
        image = self.attached
        image.detach()
        unmount(self.base)
        run("mount", "-t", "xfs", self.device, self.base)
        image.attach()

    def _unplug(self):
        if self.attached:
            self.attached.detach()
            self.attached.path.unlink(missing_ok=True)
            self.attached = None

    def close(self):
        if self.attached:
            self.attached.detach()
        if os.path.ismount(self.base):
            unmount(self.base)
        if self.device:
            run("losetup", "--detach", self.device)


class _Folder:
    def __init__(self, path):
        self.number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self):
        os.close(self.number)


class Watch:
    """Tells what appears in folders and what vanishes from them, as it happens."""

    def __init__(self, folders):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.number = self.libc.inotify_init1(os.O_NONBLOCK)
        self.folders = {}
        for folder in folders:
            path = os.fsencode(folder)
            watched = self.libc.inotify_add_watch(self.number, path, IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE)
            if watched < 0:
                raise OSError(ctypes.get_errno(), f"{folder} cannot be watched")
            self.folders[watched] = pathlib.Path(folder).name

    def wait(self, wanted, seconds):
        """The path, as `folder/name`, of the first event that is wanted; `None` when the time is over.

        Events are `created` and `deleted`, also by a move."""
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0:
            if select.select([self.number], [], [], left)[0]:
                for what, path in self._events():
                    if wanted(what, path):
                        return path
        return None

    def forget(self):
        """What has happened so far."""
        while select.select([self.number], [], [], 0)[0]:
            os.read(self.number, 65536)

    def _events(self):
        events, at = os.read(self.number, 65536), 0
        while at < len(events):
            watched, mask, _, length = EVENT.unpack_from(events, at)
            name = events[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0").decode()
            at += EVENT.size + length
            yield ("deleted" if mask & (IN_DELETE | IN_MOVED_FROM) else "created"), f"{self.folders.get(watched)}/{name}"

    def close(self):
        os.close(self.number)
