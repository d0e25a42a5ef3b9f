"""A folder to upload as a Kaggle data set: the exported model, and a script and a notebook that predict without featcache."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featcache.core.disk import replacing_folder
from featcache.core.json_records import write_json
from featcache.core.progress import Progress
from featcache.dataset import Manifest
from featcache.ensemble import Ensemble, layout_of, read_sample
from featcache.errors import SettingsError
from featcache.inference.export import FACTS_NAME, export_model, exported_lines
from featcache.project import Project
from featcache.settings import LOG_LOSS

_FILES = ("folder", "table", "filename")  # the sources whose test images are files
_MODEL, _SCRIPT, _NOTEBOOK = "model.keras", "predict.py", "predict.ipynb"
_SCRIPT_FILE = Path(__file__).with_name("offline_kernel.py")
_INTRODUCTION = """# Submission

Predicts the hidden test images and writes `submission.csv`. Add the competition's data and this bundle as inputs; no internet is needed.
Made by `featcache bundle`."""
_CELL = """# The test images and the sample submission; empty: {test} and {sample} of the competition's data.
TEST = ""
SAMPLE = ""

import sys
from glob import glob

places = ("featcache.json", *(f"/kaggle/input/{{below}}featcache.json" for below in ("*/", "*/*/", "*/*/*/")))
bundle = next(path for place in places for path in sorted(glob(place))).rpartition("/")[0] or "."
sys.path.insert(0, bundle)
import predict

predict.write_submission(TEST, SAMPLE)"""


def write_bundle(project: Project, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write model, facts, script and notebook into a new folder.

    The script writes the submission that the pipeline writes, for whatever images the test folder holds then. Members that
    all look at images of one size get them decoded as in a run; otherwise the model resizes inside.

    Returns:
        the facts, as `export_model`'s, with ``class_shares``, ``decision`` and ``submission``: columns, classes, top,
        decided, sample and test.

    Raises:
        SettingsError: test images aren't files, or several are one case.
        SubmissionError: the sample submission doesn't fit.
        CacheError, WeightsError, StorageError: as `export_model`.
    """
    settings, dataset = project.settings, project.settings.dataset
    if dataset.source not in _FILES:
        raise SettingsError(
            f"source={dataset.source!r} has no folder of test images: a bundle predicts {', '.join(_FILES)}"
        )
    rows = Manifest.load(project.folder).splits
    if any(len(each.cases) for each in rows.values()):
        raise SettingsError(
            "several images are one case, whose members are averaged before they are combined: no bundle does"
        )
    sizes = {backbone.spec.image_size for backbone in project.backbones}
    sizes |= {settings.convnet.image_size} if settings.convnet.members else set()
    sample = read_sample(dataset.sample_submission) if dataset.sample_submission else None
    with replacing_folder(folder, new=True) as temporary:
        facts = export_model(project, temporary / _MODEL, progress, fixed_size=len(sizes) == 1)
        built = Ensemble.load(project.ensemble().path)
        metric = built.decided.metric if built.decided else LOG_LOSS
        layout = layout_of(settings.submission, built.class_names, sample, metric, several=built.several)
        facts |= {"class_shares": list(built.class_shares), "decision": asdict(built.decision)}
        facts["submission"] = {
            "columns": list(layout.columns),
            "classes": None if layout.classes is None else list(layout.classes),
            "top": layout.top,
            "decided": layout.decided,
            "sample": sample.path.name if sample else None,
            "test": _test_folder(dataset.test, dataset.images),
        }
        write_json(temporary / FACTS_NAME, facts)
        shutil.copyfile(_SCRIPT_FILE, temporary / _SCRIPT)
        write_json(temporary / _NOTEBOOK, _notebook(facts["submission"]))
    return facts


def bundle_lines(folder: Path, facts: dict[str, Any]) -> list[str]:
    """Return what was written as lines of text."""
    header = ",".join(facts["submission"]["columns"])
    return [
        *exported_lines(folder, facts),
        f"{folder / _SCRIPT} and {folder / _NOTEBOOK} write submission.csv ({header if len(header) <= 60 else header[:57] + '...'})",
        "upload the folder as a data set, and add it and the competition's data to a notebook without internet",
    ]


def _test_folder(test: str, images: tuple[str, ...]) -> str:
    """What the folder of test images is called: as the settings have it, where they name one."""
    named = [name for name in (test, *images[::-1]) if name and not Path(name).suffix]
    return next((name for name in named if "test" in name), named[0] if named else "test")


def _notebook(layout: dict[str, Any]) -> dict[str, Any]:
    code = _CELL.format(test=layout["test"], sample=layout["sample"] or "no sample")
    cells = [
        {"cell_type": "markdown", "id": "introduction", "metadata": {}, "source": _INTRODUCTION},
        {"cell_type": "code", "id": "predict", "metadata": {}, "execution_count": None, "outputs": [], "source": code},
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
