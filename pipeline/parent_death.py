"""A stage that Luigi runs in a process of its own ends with the Luigi that started it."""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LOG = logging.getLogger("luigi-interface")


def die_with_parent() -> None:
    """In a process that Luigi forked (``--workers 2``), have the kernel kill it as soon as Luigi itself is dead.

    Otherwise the child of a killed Luigi would go on writing, and the next run would wait for it. Linux only; elsewhere
    the child finishes its stage.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        _LOG.warning("this process may outlive Luigi: prctl: %s", os.strerror(ctypes.get_errno()))
    if os.getppid() != parent.pid:  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)
