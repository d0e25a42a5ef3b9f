"""Commands in forks of one process that has imported other people's packages: imports are most of what a small command costs.

Luigi and featcache are imported in the fork, under the command's own arguments, folder and environment. How an interpreter
starts (its standard streams, its first imports) is for tests that start one.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time

# what `luigi --module numpy_run Submit` imports from others; pandas through pyarrow
OTHERS = (
    "requests", "tenacity.tornadoweb", "urllib.request", "multiprocessing.pool", "dateutil.parser", "lazy_loader", "xxhash",
    "numpy", "h5py", "PIL.AvifImagePlugin", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "pyarrow.compute", "pyarrow.ipc",
    "pandas", "scipy.optimize", "threadpoolctl",
)  # fmt: skip


class Process:
    """``python -m MODULE ARGUMENTS`` in a fork: as much of `subprocess.Popen` as tests need."""

    def __init__(self, words, folder, environment, out, err, *, session=False):
        self.args, self.returncode = words, None
        request = {"words": words, "folder": str(folder), "environment": environment, "session": session}
        reading, writing = os.pipe()
        socket.send_fds(_server(), [json.dumps(request).encode()], [out, err, writing])
        os.close(writing)
        self._reply = open(reading)  # noqa: SIM115 - closed when the process has ended
        self.pid = int(self._reply.readline())

    def poll(self, seconds=0):
        """Wait at most `seconds`; return the exit status, None while it runs."""
        if self.returncode is None and select.select([self._reply], [], [], seconds)[0]:
            self.returncode = int(self._reply.readline())
            self._reply.close()
        return self.returncode

    def send_signal(self, number):
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class PipedProcess(Process):
    """One whose output and complaints come through a pipe, which whatever it started holds, too."""

    def __init__(self, words, folder, environment):
        reading, writing = os.pipe()
        self.stdout = open(reading, "rb")  # noqa: SIM115 - closed when nobody writes any more
        super().__init__(words, folder, environment, writing, writing, session=True)
        os.close(writing)

    def communicate(self, timeout=None):
        """Wait until nobody holds the pipe; return what came through it, and None."""
        said, end = b"", time.monotonic() + (timeout or 600)
        while select.select([self.stdout], [], [], max(0, end - time.monotonic()))[0]:
            piece = os.read(self.stdout.fileno(), 1 << 16)
            if not piece:
                break
            said += piece
        if self.poll(max(0, end - time.monotonic())) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        self.stdout.close()
        return said.decode(), None


@functools.cache
def _server() -> socket.socket:
    """Where to send requests; the server ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [sys.executable, __file__, str(theirs.fileno())]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    server = subprocess.Popen(words, pass_fds=[theirs.fileno()], start_new_session=True, **quiet)
    theirs.close()
    atexit.register(lambda: (ours.close(), server.communicate()))
    return ours


def _serve(requests: socket.socket) -> None:
    """Fork for each request; return in the fork that is the command."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those that watched and are done
                pass
        if not message:
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            _watch(json.loads(message), *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(request: dict, out: int, err: int, reply: int) -> None:
    """Fork, and tell the command's process and then its exit status; return in the command."""
    pid = os.fork()
    if pid:
        os.write(reply, b"%d\n" % pid)
        for descriptor in (1, 2, out, err):
            os.close(descriptor)
        os.write(reply, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os._exit(0)
    if request["session"]:
        os.setsid()
    os.dup2(out, 1), os.dup2(err, 2)
    for descriptor in (out, err, reply):
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:1] = [request["folder"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = request["words"]


def _end(status: int) -> None:
    """End as `multiprocessing` does: to take apart all that was imported costs more than a refusal."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for name in OTHERS:
        importlib.import_module(name)
    os.fsync = lambda descriptor: None  # as in `conftest`
    gc.freeze()  # a fork that looked for garbage, at its end at the latest, would copy and free all of it
    _serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        _end(stop.code or 0)
