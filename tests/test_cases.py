"""Several images an id: the rows stay one an image, and whatever is made of predictions has one row a case."""

import csv

import numpy as np
import pyarrow as pa
import pytest
from listings import build_manifest
from projects import CLASSES, LuigiProject, write_image

from featcache.core.rows import Rows
from featcache.dataset.manifest import Manifest
from featcache.errors import SourceError
from featcache.features import processor
from featcache.inspection import leaderboard_record
from featcache.settings.specs import DatasetSpec
from featcache.training.cases import by_case
from featcache.training.predictions import Predictions
from pipeline.config import current_project


@pytest.fixture
def root(tmp_path):
    """Three images in the folder of each of 12 training cases, and of 3 test cases."""
    colours = list(CLASSES)
    lines = ["id,label", *(f"{number},{colours[number % 3]}" for number in range(12))]
    for number in range(15):
        for view in range(3):
            colour = CLASSES[colours[number % 3]]
            write_image(tmp_path / f"data/photos/{number}/view{view}.png", colour, 10 * number + view)
    (tmp_path / "data/train.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "data/sample_submission.csv").write_text("id,label\n14,disc\n12,disc\n13,disc\n")
    return tmp_path / "data"


def listed(root, **settings):
    spec = DatasetSpec("x", "table", root, **{"table": "train.csv", "label": ("label",), **settings})
    return build_manifest(spec, root.parent / "out")


def test_images_in_the_folder_of_their_case(root):
    manifest = listed(root, test="sample_submission.csv")
    train, test = manifest.splits["train"], manifest.splits["test"]
    assert [*train.ids[:4]] == [*(f"photos/0/view{n}.png" for n in range(3)), "photos/1/view0.png"]
    assert [*train.cases[:4]] == [*train.groups[:4]] == ["0", "0", "0", "1"]
    assert (len(train), [*test.case_ids]) == (36, ["14", "12", "13"])
    stored = Manifest.load(root.parent / "out")
    assert stored.key == manifest.key
    assert [*stored.splits["test"].cases] == [*test.cases]
    with pa.ipc.open_file(root.parent / "out/manifest.arrow") as file:
        assert file.schema.names[-1] == "case"


def test_images_called_by_their_case_and_a_number(root):
    for path in root.glob("photos/*/*.png"):
        path.rename(root / f"photos/{path.parent.name}-{path.stem[-1]}.png")
    (root / "photos/3-0.png").unlink(), (root / "photos/3-1.png").unlink()
    train = listed(root).splits["train"]
    assert [*train.cases].count("3") == 1
    assert [*train.cases].count("11") == 3
    (root / "photos/3-2.png").unlink()
    train = listed(root).splits["train"]
    assert {row: reason for row, reason in zip(train.ids, train.reasons, strict=True) if reason} == {
        "3": "no image file has this name"
    }


def test_a_case_in_two_groups_is_refused(root):
    lines = [f"{path.relative_to(root)},g{path.stem[-1]}" for path in root.glob("photos/*/*.png")]
    (root / "groups.csv").write_text("\n".join(["file,group", *lines]) + "\n")
    with pytest.raises(SourceError, match="the images of id='0' have two groups, 'g0' and 'g1': correct the table"):
        listed(root, groups="groups.csv:group")


def test_predictions_are_averaged_by_case():
    rows = Rows(list("abcde"), np.zeros(5, np.int32), [""] * 5, [""] * 5, [""] * 5, cases=["x", "y", "x", "y", "z"])
    assert rows.key != Rows(rows.ids, rows.labels, rows.groups, rows.digests, rows.reasons).key
    values = np.arange(20, dtype=np.float32).reshape(2, 5, 2)
    values[0, 3] = values[:, 4] = np.nan
    folds = np.array([1, 0, 1, -1, -2], np.int32)
    labels = np.array([1, 0, 1, 0, 1], np.int32)
    whole = Predictions(rows.ids, labels, ("m", "n"), values, ("c", "d"), folds, [*"pqpqr"], rows.key)
    assert by_case(whole, (), None) is whole
    found = by_case(whole, rows.cases, None)
    assert (found.ids, found.labels.tolist(), found.folds.tolist(), found.groups) == (
        ["x", "y", "z"],
        [1, 0, 1],
        [1, 0, -2],
        [*"pqr"],
    )
    np.testing.assert_array_equal(found.probabilities[:, 0], values[:, [0, 2]].mean(axis=1))
    np.testing.assert_array_equal(found.probabilities[:, 1], [values[0, 1], values[1, [1, 3]].mean(axis=0)])
    assert np.isnan(found.probabilities[:, 2]).all()


class Colours:
    """The mean colour of an image, in place of a network's features."""

    batch_size, taps, device = 64, {"block1_pool_avg": (3,)}, processor()

    def forward(self, images):
        return {"block1_pool_avg": images.mean(axis=(1, 2), dtype=np.float32) / 100}


def test_ensemble_scores_and_submission_have_a_row_a_case(root, tmp_path, monkeypatch):
    monkeypatch.setattr("featcache.stages.features.resolved_backbone", lambda *_: Colours())
    settings = {
        "Dataset": {
            "name": "photos", "source": "table", "path": str(root), "table": "train.csv", "label": "label",
            "test": "sample_submission.csv",
        },
        "Features": {"image_size": "32", "precision": "float32", "weights": "random", "taps": "block1_pool:avg"},
        "Heads": {"preset": "fast", "hidden": "8", "schedule": "1e-2x2", "seeds": "1", "folds": "2"},
        "Paths": {"artifacts": str(tmp_path / "artifacts")},
    }  # fmt: skip
    project = LuigiProject(tmp_path, settings)
    project.run()
    assert project.succeeded
    with open(project.artifacts / "submission.csv", newline="") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == ["14", "12", "13"]
    assert (project.artifacts / "report/index.html").is_file()
    with project.in_force():
        assert leaderboard_record(current_project())["rows"] == 12
