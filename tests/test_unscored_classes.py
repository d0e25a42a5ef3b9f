"""A whole run where a class is in one group and folds are more than groups: trained on, not scored, and a notice says so."""

import json

import numpy as np
import pytest
import runs
from projects import CLASSES, small_project, stored_ensemble, write_image

from featcache.training import load_bag
from featcache.training.folds import ALWAYS


@pytest.fixture(scope="module")
def run(numpy_backbone, tmp_path_factory):
    project = small_project(tmp_path_factory.mktemp("unscored"))
    train = project.folder / "photos/train"
    for number in range(3):
        write_image(train / f"lone/{number}.png", (230, 230, 40), 900 + number)
    drivers = [f"{name}/{number}.png,d{number % 4}" for name in CLASSES for number in range(8)]
    lone = [f"lone/{number}.png,d1" for number in range(3)]
    (project.folder / "drivers.csv").write_text("\n".join(["file,driver", *drivers, *lone]))
    project.set("Dataset", groups=f"{project.folder / 'drivers.csv'}:driver")
    project.set("Heads", folds="5", per_group="true", pseudo_weight="0.3", class_weight="balanced")
    project.set("Report", enabled="true")
    return project, *runs.finish(runs.start(runs.command(project)))


def test_the_run_ends_well_and_says_what_is_not_scored(run):
    _, code, screen = run
    assert code == 0, screen
    words = " ".join(screen.split())
    assert words.count("not scored: class 'lone' (3 rows), trained on in every fold") == 2, (
        "before the work and after it"
    )
    assert words.count("folds=4, not [Heads] folds=5: there are no more images or groups to score") == 2


def test_its_rows_are_in_no_score_and_its_class_is_predicted(run):
    project, *_ = run
    bags = list(project.artifacts.glob("heads/*/bag.json"))
    assert len(bags) == 5, "by folds, by group, pseudo-labelled, the regression and the discriminant"
    for bag in bags:
        folds, table = np.load(bag.with_name("folds.npy")), np.load(bag.with_name("out_of_fold.npy"))
        names = json.loads(bag.read_text())["predictions"]["class_names"]
        assert sorted(set(folds)) == [ALWAYS, 0, 1, 2, 3]
        assert (folds == ALWAYS).sum() == 3
        assert np.isnan(table[:, folds == ALWAYS]).all()
        trained = load_bag(bag.parent)
        assert trained.seen_classes[:, names.index("lone")].all(), "every head was trained on it"
        assert len(trained.heads) == len(table) * 4
    page = (project.artifacts / "report/index.html").read_text()
    assert "not scored: class &#39;lone&#39; (3 rows)" in page
    assert "4 folds" in page
    built = stored_ensemble(project)
    assert sorted(built.folds) == [0, 1, 2, 3]
    assert built.class_shares[built.class_names.index("lone")] == pytest.approx(3 / 27)
