"""The guard: runs one command, and sees to it that nothing of it outlives its owner or itself.

Run by its path as `python -IS guard.py …`: standard library only, no site-packages, about 40 ms. The guard
is a child subreaper (prctl(2)), so whatever its command starts, daemons included, comes back to it when it is
orphaned, and is found by walking down from the guard: never by name, never from the guard's own parent. It
ends the whole tree when

- its owner dies, by whatever means (a pidfd tells; a pipe would be kept open by a forked sibling),
- it is told to, by SIGTERM, SIGINT or SIGHUP, or
- the command's own process ends.

It also drains the command's output into a log, with keys blanked, so that the command never blocks on it.
SIGKILL leaves shared memory in /dev/shm under random names. So the guard notes, while they live, who its command's
processes are and what they have mapped there, and removes what nobody uses at the end. It writes that down as well
(`--notes`), for whoever has to clean up if the guard itself is killed.

Status goes to `--status-fd` as JSON lines: `{"leader": PID}` once; `{"tree": [[PID, start]…], "shm": [inode…]}`
as they are found, what is new only; at the end `{"exit": CODE, "reason": …, "signal": …, "left": [PID…],
"removed": [path…]}`, where the reason is one of COMMAND_ENDED, OWNER_DIED and SIGNALLED, and the signal is the name of
the one that the guard was sent, or empty.

The owner may send it JSON lines by `--control-fd`: `{"log": PATH, "secrets": [VALUE…]}` has it go on in another log,
with these keys blanked, and is answered by `{"log": PATH}`. What was written until then is carried over.
Exit code: the command's own, or 128 + signal.

This file has over 400 lines because it is run by its path, and so can import nothing of the package.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import time

COMMAND_ENDED, OWNER_DIED, SIGNALLED = "command ended", "owner died", "signalled"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
TRACKER_GRACE_S = 1.5  # multiprocessing's resource_tracker unlinks shared memory once its clients are dead
GIVE_UP_S = 30.0  # a process stuck in a driver survives even SIGKILL
POLL_S = 0.05
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
HOLD_BYTES = 64 * 1024  # of a line that has not ended
LOG_CAP_BYTES = 64 * 1024 * 1024
SHM = "/dev/shm"
MASK, SHORT_KEY = b"**********", 8
LOOK_S = (0.1, 5.0)  # seconds between looks at what the command's processes are and hold: at first, and at most


def stat(pid: int) -> tuple[str, int, int] | None:
    """(state, parent's PID, start time in clock ticks since boot), or None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().decode("latin-1").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return fields[0], int(fields[1]), int(fields[19])


def descendants(*roots: int) -> list[int]:
    """Every process below these that is not a zombie."""
    children: dict[int, list[tuple[int, str]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            found = stat(int(name))
            if found:
                children.setdefault(found[1], []).append((int(name), found[0]))
    alive, todo = [], list(roots)
    while todo:
        for pid, state in children.get(todo.pop(), ()):
            todo.append(pid)
            if state != "Z":
                alive.append(pid)
    return alive


def is_tracker(pid: int) -> bool:
    """Whether it is multiprocessing's resource tracker."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"multiprocessing.resource_tracker" in file.read()
    except OSError:
        return False


def send(pid: int, number: int) -> None:
    """Signal a descendant. Between listing and signalling only we could have reaped it, so the PID is its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def remove(folders: list[str]) -> None:
    """Delete folders."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def shared_memory(pid: int) -> set[int]:
    """Inodes in /dev/shm that a process has mapped or open; none if it must not be looked at.

    Not paths: glibc makes a semaphore under another name than it has in the end (sem_open(3)), and maps show that.
    """
    found = set()
    with contextlib.suppress(OSError):
        device = os.stat(SHM).st_dev
        mark = f" {os.major(device):02x}:{os.minor(device):02x} ".encode()
        with open(f"/proc/{pid}/maps", "rb") as maps:
            found = {int(line.split(None, 5)[4]) for line in maps if mark in line}
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = f"/proc/{pid}/fd/{name}"
                if os.readlink(link).startswith(SHM):  # to ask the file itself could hang, as on a dead NFS
                    found.add(os.stat(link).st_ino)
    return found


def shared_memory_files() -> dict[int, str]:
    """What is in /dev/shm: paths by inode."""
    with contextlib.suppress(OSError), os.scandir(SHM) as entries:
        return {entry.inode(): entry.path for entry in entries}
    return {}


def is_private(path: str, inode: int) -> bool:
    """Whether it is still that file, this user's, and one that no other user could have opened."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    private = found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return found.st_ino == inode and private


def remove_shared_memory(noted: set[int]) -> list[str]:
    """Delete what was noted of dead processes, but for what any living process of anybody uses. Returns the paths."""
    unused = {
        inode: path for inode, path in shared_memory_files().items() if inode in noted and is_private(path, inode)
    }
    if unused:
        used = set().union(*(shared_memory(int(name)) for name in os.listdir("/proc") if name.isdigit()))
        unused = {inode: path for inode, path in unused.items() if inode not in used}
    removed = []
    for path in sorted(unused.values()):
        with contextlib.suppress(OSError):
            os.unlink(path)
            removed.append(path)
    return removed


def blank(data: bytes, secrets: list[bytes]) -> bytes:
    """Output without keys. A short key is blanked where it is a word: it may be a part of any other."""
    for secret in secrets:
        if len(secret) >= SHORT_KEY:
            data = data.replace(secret, MASK)
        else:
            data = re.sub(rb"(?<!\w)" + re.escape(secret) + rb"(?!\w)", MASK, data)
    return data


class Log:
    """Where the command's output goes: a file of bounded size, and the owner's pipe if it wants to see it."""

    def __init__(self, path: str, secrets: list[bytes], tee: int | None) -> None:
        self.path, self.secrets, self.tee = path, secrets, tee
        self.rest = b""
        self.size = os.path.getsize(path) if os.path.exists(path) else 0
        self.file: int | None = self._open()

    def _open(self) -> int | None:
        try:
            return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:
            return None  # a full or read-only disk must not stop the draining

    def move(self, path: str, secrets: list[bytes]) -> None:
        """Go on in another file, which gets what this one has, and blank these keys from now on."""
        self.feed(b"", last=True)
        before, self.tee, tee = b"", None, self.tee  # who wanted to see it has seen it
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            before = file.read(LOG_CAP_BYTES)
        if self.file is not None:
            os.close(self.file)
        self.path, self.secrets = path, secrets
        self.size = os.path.getsize(path) if os.path.exists(path) else 0
        self.file = self._open()
        self.feed(before, last=True)
        self.tee = tee

    def feed(self, data: bytes, last: bool = False) -> None:
        """Take output; lines are written when they are whole, so that a key is never seen in two halves."""
        data = blank(self.rest + data, self.secrets)
        cut = len(data) if last else max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if len(data) - cut > HOLD_BYTES:  # a line too long to be held: all of it but what may be the half of a key
            cut = len(data) - max(map(len, self.secrets), default=0)
        self.rest, data = data[cut:], data[:cut]
        if not data:
            return
        if self.size > LOG_CAP_BYTES:
            with contextlib.suppress(OSError):
                os.replace(self.path, self.path + ".1")
            if self.file is not None:
                os.close(self.file)
            self.file, self.size = self._open(), 0
        self.size += len(data)
        if self.file is not None:
            with contextlib.suppress(OSError):
                os.write(self.file, data)
        if self.tee is not None:
            try:
                os.write(self.tee, data)
            except BlockingIOError:
                pass  # the owner is slow to read; the log has it
            except OSError:
                self.tee = None


class Guard:
    """One command and everything it starts."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.me = os.getpid()
        self.leader = self.owner = -1
        self.code: int | None = None
        self.drain, output = os.pipe()
        os.set_blocking(self.drain, False)
        self.output = output
        self.secrets = [os.environ[name].encode() for name in args.secrets.split(",") if os.environ.get(name)]
        self.log = Log(args.log, self.secrets, args.tee_fd)
        self.asked = b""  # by the owner, of a line that has not ended
        self.tree: dict[int, int] = {}
        self.shm: set[int] = set()
        self.foreign_shm = set(shared_memory_files())
        self.written = ""
        self.pause_s = LOOK_S[0]  # most processes are started early, and a look at /proc costs some milliseconds
        self.look_at = time.monotonic() + self.pause_s

    def start(self) -> None:
        """Start the command. It dies with the guard; what it has started by then is the owner's to clean up."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)  # our handlers would swallow what reaches the child early
        self.leader = os.fork()
        if self.leader:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            os.close(self.output)
            for fd in self.args.pass_fd:
                os.close(fd)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)  # the command's standard input is its alone
            return
        try:
            signal.set_wakeup_fd(-1)
            for number in (*HANDLED, signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores the last two
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            os.setpgid(0, 0)
            # A core file would hold the keys of its environment, and outlive it.
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self.me:
                os._exit(125)
            os.dup2(self.output, 1)
            os.dup2(self.output, 2)
            for fd in self.args.pass_fd:
                os.set_inheritable(fd, True)
            os.execvp(self.args.command[0], self.args.command)
        except OSError as error:
            os.write(2, f"cannot run {self.args.command[0]}: {error}\n".encode())
        os._exit(127)

    def reap(self) -> None:
        """Collect whatever has ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.leader:
                    self.code = os.waitstatus_to_exitcode(status)

    def read(self) -> None:
        """Drain what there is of the command's output."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.drain, 65536):
                self.log.feed(data)

    def obey(self) -> bool:
        """Do what the owner asks for. Returns whether it may ask for more."""
        data = os.read(self.args.control_fd, 65536)
        *lines, self.asked = (self.asked + data).split(b"\n")
        for line in lines:
            asked = json.loads(line)
            self.read()
            self.secrets = [value.encode() for value in asked["secrets"] if value]
            self.log.move(asked["log"], self.secrets)
            self.report(log=asked["log"])
        return bool(data)

    def look(self) -> None:
        """Note which processes there are, and the shared memory that they use; tell what is new."""
        now: dict[int, int] = {}
        shm: set[int] = set()
        for pid in descendants(self.me):
            found = stat(pid)
            if found:
                now[pid] = found[2]
            shm |= shared_memory(pid)
        shm -= self.foreign_shm | self.shm
        tree = {pid: start for pid, start in now.items() if self.tree.get(pid) != start}
        self.tree.update(tree)
        self.shm |= shm
        if tree or shm:
            self.report(tree=sorted(tree.items()), shm=sorted(shm))
        self.write_down(now)

    def write_down(self, now: dict[int, int]) -> None:
        """A daemon with an environment of its own could not be found once this guard and its owner are killed."""
        text = json.dumps({"tree": sorted(now.items()), "shm": sorted(self.shm)})
        if self.args.notes and text != self.written:
            with contextlib.suppress(OSError):  # a full disk
                with open(f"{self.args.notes}.new", "w") as file:
                    file.write(text)
                os.replace(f"{self.args.notes}.new", self.args.notes)
                self.written = text

    def look_if_due(self) -> float:
        """Look, when it is time to. Milliseconds to the next time."""
        if time.monotonic() >= self.look_at:
            self.look()
            self.pause_s = min(self.pause_s * 1.5, LOOK_S[1])
            self.look_at = time.monotonic() + self.pause_s
        return max(0.0, self.look_at - time.monotonic()) * 1000 + 1

    def watch(self, owner: int, wake: int) -> tuple[str, str]:
        """Wait for a reason to end; return it, with the name of the signal if there was one."""
        poll = select.poll()
        for fd in (owner, wake, self.drain, self.args.control_fd):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        while True:
            for fd, event in poll.poll(self.look_if_due()):
                if fd == owner:
                    return OWNER_DIED, ""
                if fd == wake:
                    for number in os.read(wake, 64):
                        if number != signal.SIGCHLD:
                            return SIGNALLED, signal.Signals(number).name
                elif fd == self.args.control_fd:
                    if not self.obey():
                        poll.unregister(fd)
                elif event & select.POLLIN:
                    self.read()
                else:  # every writer has closed it
                    poll.unregister(fd)
            self.reap()
            if self.code is not None:
                return COMMAND_ENDED, ""

    def end(self, grace_s: float) -> list[int]:
        """Ask the command to stop, wait, then kill all there is. Returns what could not be killed."""
        self.look()
        deadline = time.monotonic() + grace_s
        if self.code is None:
            send(self.leader, signal.SIGTERM)
        while time.monotonic() < deadline and self.code is None:
            self.pause()
            if grace_s > self.args.orphan_grace and select.select([self.owner], [], [], 0)[0]:
                grace_s = self.args.orphan_grace  # the owner has died meanwhile
                deadline = min(deadline, time.monotonic() + grace_s)
        self.look()  # by now it may have started more
        killing = time.monotonic()
        while left := descendants(self.me):
            spare = time.monotonic() - killing < TRACKER_GRACE_S
            for pid in left:
                if not (spare and is_tracker(pid)):
                    send(pid, signal.SIGKILL)
            if time.monotonic() - killing > GIVE_UP_S:
                return left
            self.pause()
        return []

    def pause(self) -> None:
        """Let time pass, while output goes on being drained."""
        select.select([self.drain], [], [], POLL_S)
        self.read()
        self.reap()
        self.look_if_due()

    def run(self, owner: int, wake: int) -> int:
        """The guard's whole life."""
        self.owner = owner
        self.start()
        self.report(leader=self.leader)
        reason, number = self.watch(owner, wake)
        left = self.end(self.args.orphan_grace if reason == OWNER_DIED else self.args.grace)
        self.read()
        self.log.feed(b"", last=True)
        remove(self.args.remove)
        self.reap()
        code = 128 + signal.SIGKILL if self.code is None else self.code
        code = code if code >= 0 else 128 - code
        removed = remove_shared_memory(self.shm)
        self.report(exit=code, reason=reason, signal=number, left=left, removed=removed)
        return code

    def report(self, **status: object) -> None:
        """Write a status line to the owner, if it still listens."""
        with contextlib.suppress(OSError):
            os.write(self.args.status_fd, (json.dumps(status) + "\n").encode())


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--owner", type=int, required=True, help="PID whose death ends the command")
    parser.add_argument("--owner-start", type=int, required=True, help="its start time, in ticks since boot")
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--log", required=True, help="file for the command's output")
    parser.add_argument("--tee-fd", type=int, default=None, help="where its output goes as well")
    parser.add_argument("--control-fd", type=int, default=None, help="where the owner asks for something")
    parser.add_argument("--pass-fd", type=int, action="append", default=[], help="descriptor for the command alone")
    parser.add_argument("--secrets", default="", help="variables, by comma, whose values are blanked in its output")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--orphan-grace", type=float, default=2.0, help="the same, once the owner is dead")
    parser.add_argument("--remove", action="append", default=[], help="folder to delete at the end")
    parser.add_argument("--notes", default=None, help="file for what it notes of the processes below")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    args.command = args.command[1:] if args.command[:1] == ["--"] else args.command
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    for fd in (args.status_fd, args.tee_fd, args.control_fd, *args.pass_fd):
        if fd is not None:
            os.set_inheritable(fd, False)  # a daemon that held the status pipe would hide the guard's death
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, wake_end = os.pipe()
    for fd in (wake, wake_end):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
    for number in HANDLED:
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    owner = None
    with contextlib.suppress(OSError):
        owner = os.pidfd_open(args.owner)
    found = stat(args.owner)
    if owner is None or found is None or found[2] != args.owner_start:
        remove(args.remove)
        return 125  # the owner is gone already, and another process may have its PID
    return Guard(args).run(owner, wake)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
