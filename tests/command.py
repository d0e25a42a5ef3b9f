"""The command that people type, run as they run it: in a process and a folder of its own."""

import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from warm_start import Process

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
    """Run it in `folder` and wait for its end; in a warm process, see `warm_start`."""
    _, _, *words = command(*arguments, **settings)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = Process(words, folder, environment(), out.fileno(), err.fileno())
        assert process.poll(300) is not None, "it hangs"
        out.seek(0), err.seek(0)
        return Outcome(process.returncode, out.read(), err.read())


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
