"""The command that people type, run as they run it: a process of its own in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Outcome(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Standard error, line by line."""
        return self.err.splitlines()


def environment(**more: str) -> dict[str, str]:
    """This process' environment, with the project importable from any folder."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), *([str(ROOT / "tests")] if on_numpy() else [])])
    return {**os.environ, "PYTHONPATH": paths, "COLUMNS": "80", **more}


def on_numpy() -> bool:
    """Whether features are computed without TensorFlow: the fixture `numpy_backbone`."""
    return "NUMPY_BACKBONE" in os.environ


def command(*arguments: str, **settings: str) -> list[str]:
    """``luigi --module pipeline ARGUMENTS``, with settings such as ``Features_image_size="32"`` as flags."""
    flags = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)]
    module = "numpy_run" if on_numpy() else "pipeline"
    return [sys.executable, "-m", "luigi", "--module", module, *arguments, *flags]


def luigi(folder: Path, *arguments: str, **settings: str) -> Outcome:
    """Run it in `folder` and wait for its end."""
    done = subprocess.run(
        command(*arguments, **settings), cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


SMALL = {
    "Features_weights": "random",
    "Features_taps": "block1_pool:avg",
    "Features_image_size": "32",
    "Features_precision": "float32",
    "Heads_preset": "fast",
    "Heads_hidden": "8",
    "Heads_schedule": "1e-2x2",
    "Heads_seeds": "1",
    "Heads_folds": "2",
    "Report_enabled": "false",  # it costs more than all the rest
}


def photos(folder: Path, **more: str) -> dict[str, str]:
    """Settings of a small project on images in `folder`."""
    return {"Dataset_name": "photos", "Dataset_source": "folder", "Dataset_path": str(folder), **SMALL, **more}
