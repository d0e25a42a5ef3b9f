"""Kill a run of Luigi, look at what it left, run again to the end, and compare with an undisturbed run."""

import dataclasses
import shutil
import time
from pathlib import Path

import runs
from projects import LuigiProject, write_photos

import featcache
from featcache.errors import CacheError

TRAIN, TEST = (
    95,
    20,
)  # images a class: with batches of 64, five blocks of training rows (the last of 29) and one of test rows

NAMES = (
    "listing.csv", "listing.json", "manifest.arrow", "manifest.json", "resolved.json", "train-*.partial.h5", "train-*-????????.h5",
    "test-*.partial.h5", "test-*-????????.h5", "rejected.csv", "features.json", "block1_pool_avg-fast-*", "test-????????", "ensemble.json",
    "????????", "submission.csv", "submission.json", "index.html", "report.json",
)  # fmt: skip
BOUNDARIES = [f"block:{block}" for block in range(1, 6)]
RENAMES = [f"{when}:{name}" for name in NAMES for when in ("before", "after")]


@dataclasses.dataclass
class Undisturbed:
    """A finished run, how long it took, and what it made."""

    folder: Path
    seconds: float
    contents: dict[str, bytes]
    report: bool

    def fresh(self, folder: Path) -> LuigiProject:
        """The same project with nothing made yet, its images at another place."""
        return LuigiProject(folder, _settings(self.folder, folder, report=self.report))


def undisturbed(folder: Path, *, report: bool = False) -> Undisturbed:
    """Run the project to its end; its report costs more than all the rest."""
    write_photos(folder / "photos", TRAIN, TEST)
    project = LuigiProject(folder, _settings(folder, folder, report=report))
    begun = time.perf_counter()
    code, said = runs.finish(runs.start(runs.command(project), **runs.SHORT_BLOCKS))
    assert code == 0, said
    return Undisturbed(folder, time.perf_counter() - begun, runs.contents(project.artifacts), report)


def kill_at(project: LuigiProject, moment: str, whom: str, workers: int) -> bool:
    """Run until the kill switch `moment`; return whether it came to that.

    Raises:
        AssertionError: a stage outlived its Luigi.
    """
    outlived = project.folder / "outlived"
    switch = {"KILL_AT": moment, "KILL_WHOM": whom, "KILL_OUTLIVED": str(outlived), **runs.SHORT_BLOCKS}
    process = runs.start(runs.command(project, workers), "kill_switch", **switch)
    code, said = runs.finish(process)
    assert code in (0, -9), said
    assert not outlived.exists(), f"a stage outlived its Luigi, which was killed at {moment}"
    return code == -9


def kill_after(project: LuigiProject, seconds: float, whom: str, workers: int) -> bool:
    """Kill a run from outside after `seconds`; return whether it was still alive."""
    process = runs.start(runs.command(project, workers), **runs.SHORT_BLOCKS)
    time.sleep(seconds)
    alive = process.poll() is None
    if whom == "parent":
        process.kill()
        runs.finish(process)  # ends only when nobody holds the pipe: a child that lived on would be waited for
    else:
        runs.kill_group(process)
    return alive


def check_leftovers(project: LuigiProject, whole: Undisturbed) -> int:
    """Whatever bears a final name must be whole and right; return how many unfinished files there are."""
    if not project.artifacts.exists():
        return 0
    wrong = differing(project, whole, missing=False)
    assert not wrong, f"half-written, but looks done: {wrong}"
    partials = list(project.artifacts.rglob("*.partial.h5"))
    for path in partials:
        try:
            featcache.open(path)
        except CacheError:
            continue
        raise AssertionError(f"{path} is unfinished and opens")
    return len(partials)


def run_to_the_end(project: LuigiProject, whole: Undisturbed, workers: int) -> str:
    """Run again, compare everything with the undisturbed run's, and return the screen."""
    code, said = runs.finish(runs.start(runs.command(project, workers), **runs.SHORT_BLOCKS))
    assert code == 0, said
    wrong = differing(project, whole, missing=True)
    assert not wrong, f"not byte-identical: {wrong}"
    assert runs.leftovers(project.artifacts) == []
    return said


def differing(project: LuigiProject, whole: Undisturbed, *, missing: bool) -> list[str]:
    """Names of datasets and files that are not the undisturbed run's."""
    found = runs.contents(project.artifacts)
    names = set(found) | set(whole.contents) if missing else set(found)
    return sorted(name for name in names if found.get(name) != whole.contents.get(name))


def discard(project: LuigiProject) -> None:
    """Remove what a checked run made."""
    shutil.rmtree(project.folder)


def _settings(photos: Path, folder: Path, *, report: bool) -> dict[str, dict[str, str]]:
    return {
        "Dataset": {"name": "photos", "source": "folder", "path": str(photos / "photos")},
        "Features": {"weights": "random", "taps": "block1_pool:avg", "image_size": "32", "precision": "float32"},
        "Heads": {"preset": "fast", "hidden": "8", "schedule": "1e-2x2", "seeds": "2", "folds": "2"},
        "Report": {"enabled": str(report).lower()},
        "Paths": {"artifacts": str(folder / "artifacts")},
    }
