"""Luigi as people start it, in a process and process group of its own, on the small project of `projects`."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
from warm_start import PipedProcess

ROOT = Path(__file__).parent.parent
# what `os` has on Linux alone, of all that anybody here might call
LINUX_ALONE = (
    "sched_getaffinity",
    "sched_setaffinity",
    "posix_fallocate",
    "posix_fadvise",
    "copy_file_range",
    "memfd_create",
)
SHORT_BLOCKS = {"FEATCACHE_BLOCK_BYTES": "1"}  # a block is at least one batch


def command(project, workers=1, stage="Submit"):
    """The command line that runs `project`."""
    flags = []
    for section, values in project.settings.items():
        for key, value in values.items():
            flags += [f"--{section}-{key.replace('_', '-')}", value]
    return [stage, "--workers", str(workers), *flags]


def start(words, module="pipeline", prefix=(), **environment):
    """Start Luigi in a new process group, warm (see `warm_start`) unless by a command `prefix`, such as ``setpriv``."""
    if module == "pipeline" and "NUMPY_BACKBONE" in os.environ:  # the fixture `numpy_backbone`
        module = "numpy_run"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, **environment}
    folder = ROOT / "tests"  # no luigi.cfg: its defaults are ours
    if not prefix:
        return PipedProcess(["luigi", "--module", module, *words], folder, environment)
    return subprocess.Popen(
        [*prefix, sys.executable, str(Path(sys.executable).with_name("luigi")), "--module", module, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        start_new_session=True,
    )


def finish(process, timeout=120):
    """Wait; return the exit status and what was on the screen."""
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_group(process)
        raise
    return process.returncode, said


def kill_group(process):
    """SIGKILL to Luigi and everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def contents(artifacts):
    """Everything that must be byte-identical: features, out-of-fold and other predictions, submission, manifest."""
    found = {}
    for path in sorted(artifacts.rglob("*")):
        name = str(path.relative_to(artifacts))
        if path.name.startswith(".") or ".tmp-" in name:
            continue
        if path.suffix == ".h5" and not path.name.endswith(".partial.h5"):
            with h5py.File(path, "r") as file:
                for dataset in _datasets(file):
                    if not dataset.startswith(("record/run", "journal")):
                        value = np.asarray(file[dataset][()])
                        texts = value.dtype == object
                        found[f"{name}/{dataset}"] = b"\0".join(value) if texts else value.tobytes()
        elif path.name in ("submission.csv", "manifest.arrow", "rejected.csv", "bag.npz") or path.suffix == ".npy":
            found[name] = path.read_bytes()
    return found


def _datasets(file):
    names = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def leftovers(artifacts):
    """What a finished run must not leave: partial and temporary files."""
    return sorted(
        str(path.relative_to(artifacts))
        for path in artifacts.rglob("*")
        if path.name.endswith(".partial.h5") or ".tmp-" in path.name
    )
