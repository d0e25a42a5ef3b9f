"""The very same command, started twice: Luigi ends the second, and this says in one line which process is at work."""

import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import luigi
from luigi import lock
from luigi.retcodes import retcode

from pipeline.failures import say_error


def refuse_twice() -> None:
    """End with Luigi's exit status for it if the same command line is running; ``[core] no_lock`` allows it.

    Raises:
        SystemExit: with ``[retcode] already_running``.
    """
    core = luigi.interface.core()
    if core.no_lock or core.take_lock:
        return
    mine, words, pid_file = lock.get_info(core.lock_pid_dir)
    others = [pid for pid in _pids(Path(pid_file)) if pid != mine and lock.getpcmd(pid) == words]
    if len(others) >= core.lock_size:
        who = ", ".join(f"process {pid} on {socket.gethostname()}{_since(pid)}" for pid in others)
        say_error(f"this very command is already running as {who}; wait for it or stop it")
        raise SystemExit(retcode().already_running)


def _pids(pid_file: Path) -> list[int]:
    """What Luigi noted for this command line, dead processes included."""
    with suppress(OSError, ValueError):
        return sorted({int(line) for line in pid_file.read_text("utf-8").split()})
    return []


def _since(pid: int) -> str:
    with suppress(OSError):
        begun = datetime.fromtimestamp(Path(f"/proc/{pid}").stat().st_mtime, UTC)
        return f" since {begun.isoformat(timespec='seconds')}"
    return ""
