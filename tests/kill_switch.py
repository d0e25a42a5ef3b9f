"""`pipeline` as a module that kills itself: ``luigi --module kill_switch Submit`` dies where KILL_AT says.

KILL_AT is ``block:2`` (right after the second block that this process journals), ``before:NAME`` or ``after:NAME`` (around
the rename that gives something a name of that pattern). KILL_WHOM is ``group`` or ``parent``; of ``parent``, a stage
that outlives it by two seconds leaves the file KILL_OUTLIVED. With FAULT_DO, that command runs there once instead.
"""

import fnmatch
import os
import signal
import subprocess
import time
from pathlib import Path

import pipeline  # noqa: F401  # its stages are what runs
from featcache.cache.layout import CHECKSUM_BYTES
from featcache.core.disk import disk

if "NUMPY_BACKBONE" in os.environ:
    import numpy_run  # noqa: F401

WHEN, _, WHAT = os.environ.get("KILL_AT", "").partition(":")
real_pwrite, real_replace = disk.pwrite, disk.replace
journaled = []
FAULT = [os.environ["FAULT_DO"]] if "FAULT_DO" in os.environ else []


def die():
    if FAULT:
        subprocess.run(["bash", "-c", FAULT.pop()], check=True)
    if "FAULT_DO" in os.environ:
        return
    if os.environ.get("KILL_WHOM") == "parent" and os.getpgid(0) != os.getpid():
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(2)
        Path(os.environ["KILL_OUTLIVED"]).touch()
    os.killpg(0, signal.SIGKILL)
    time.sleep(60)


def pwrite(descriptor, content, offset):
    real_pwrite(descriptor, content, offset)
    if WHEN == "block" and len(content) == CHECKSUM_BYTES:
        journaled.append(offset)
        if len(journaled) == int(WHAT):
            die()


def replace(source, target):
    wanted = fnmatch.fnmatch(target.name, WHAT)
    if wanted and WHEN == "before":
        die()
    real_replace(source, target)
    if wanted and WHEN == "after":
        die()


disk.pwrite, disk.replace = pwrite, replace
