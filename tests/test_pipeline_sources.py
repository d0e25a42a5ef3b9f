"""The main job from each kind of source to a submission in the form that its competition asks for."""

import csv
import gzip
import json

import numpy as np
import pytest
from images import make_idx, table
from projects import CLASSES, LuigiProject, small_project, stored_predictions, write_image

from featcache.cache.reader import open_cache
from featcache.training.heads.bag import load_bag


def digits(n, side=8, seed=0):
    """n images of two kinds, dark and bright, and their labels."""
    labels = np.arange(n) % 2
    noise = np.random.default_rng(seed).integers(0, 60, (n, side, side))
    return (noise + 150 * labels[:, None, None]).astype(np.uint8), labels


def lines(path):
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return list(csv.reader(text.splitlines()))


@pytest.fixture
def project(tmp_path):
    return small_project(tmp_path)


def use(project: LuigiProject, source, path, **more):
    project.set("Dataset", source=source, path=str(path), **more)
    return project


def test_digit_recognizer(project, tmp_path):
    images, labels = digits(24)
    (tmp_path / "kaggle").mkdir()
    (tmp_path / "kaggle/train.csv").write_bytes(table(images, labels, end="\r\n").encode())
    (tmp_path / "kaggle/test.csv").write_bytes(table(images[:5]).encode())
    sample = "ImageId,Label\r\n" + "".join(f"{row},0\r\n" for row in (3, 1, 2, 5, 4))
    (tmp_path / "kaggle/sample_submission.csv").write_text(sample)
    use(project, "csv", tmp_path / "kaggle").run()
    assert project.succeeded
    written = lines(project.artifacts / "submission.csv")
    assert written[0] == ["ImageId", "Label"]
    assert [row[0] for row in written[1:]] == ["3", "1", "2", "5", "4"]
    truth = {str(i + 1): str(labels[i]) for i in range(5)}
    assert sum(truth[row[0]] == row[1] for row in written[1:]) >= 4


def test_mnist(project, tmp_path):
    images, labels = digits(24)
    (tmp_path / "mnist").mkdir()
    make_idx(tmp_path / "mnist", images, labels.tolist(), test=labels.tolist(), packed=True)
    use(project, "idx", tmp_path / "mnist").run()
    assert project.succeeded
    record = json.loads((project.artifacts / "submission.json").read_text())
    assert record["scores"]["test"]["rows"] == 24
    assert record["scores"]["test"]["accuracy"] > 0.9
    reader = open_cache(next((project.artifacts / "features").glob("test-*.h5")))
    assert reader.labels.tolist() == labels.tolist()


def test_statefarm_with_drivers_copies_and_a_gzip_of_probabilities(project, tmp_path):
    photos = tmp_path / "statefarm"
    rows = [("subject", "classname", "img")]
    for number, name in enumerate(CLASSES):
        for i in range(8):
            write_image(photos / "train" / name / f"img_{10 * number + i}.png", CLASSES[name], 50 * number + i)
            rows.append((f"p{i % 4}", name, f"img_{10 * number + i}.png"))
        write_image(photos / "test" / f"img_{900 + number}.png", CLASSES[name], 900 + number)
    with open(photos / "driver_imgs_list.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    use(project, "folder", photos, groups="driver_imgs_list.csv:subject")
    project.set("Features", copies="2")
    columns = "img, disc, square, triangle"
    project.set("Submission", format="probabilities", gzip="true", columns=columns, clip="0.9")
    project.run()
    assert project.succeeded
    written = lines(project.artifacts / "submission.csv.gz")
    assert written[0] == columns.split(", ")
    assert [row[0] for row in written[1:]] == ["img_900.png", "img_901.png", "img_902.png"]
    values = np.array([row[1:] for row in written[1:]], float)
    assert values.max() <= 0.9
    assert values.min() >= 0.05 - 1e-6
    assert values.argmax(axis=1).tolist() == [0, 1, 2]
    assert len(list((project.artifacts / "features").glob("train-copy*.h5"))) == 3
    folds = folds_by_row(project)
    drivers = {row[2]: row[0] for row in rows[1:]}
    for driver in ("p0", "p1", "p2", "p3"):
        own = {fold for row_id, fold in folds.items() if drivers[row_id.split("/")[-1]] == driver}
        assert len(own) == 1, f"driver {driver} stands in folds {own}"


def folds_by_row(project):
    """Row id -> fold, as found by asking which fold's heads gave the row's out-of-fold prediction."""
    folder = next((project.artifacts / "heads").glob("*-fast-*"))
    bag, known = load_bag(folder), stored_predictions(project, "heads/*-fast-*/bag.json")
    reader = open_cache(next((project.artifacts / "features").glob("train-copy0-*.h5")))
    said = bag.predict(reader.features)  # (heads, n, C)
    first = [number for number, head in enumerate(bag.heads) if head.seed == bag.seeds[0]]
    distance = np.abs(said[first] - known.probabilities[0]).max(axis=2)  # (folds, n)
    assert distance.min(axis=0).max() < 1e-3, "values that heads see are kept in half precision while they train"
    return dict(zip(known.ids, distance.argmin(axis=0).tolist(), strict=True))


def test_a_valid_split_and_a_labelled_test_split_are_scored_and_not_trained_on(project):
    photos = project.folder / "photos"
    for number, name in enumerate(CLASSES):
        for i in range(2):
            write_image(photos / "valid" / name / f"v{i}.png", CLASSES[name], 300 + 10 * number + i)
            (photos / "test" / name).mkdir(parents=True, exist_ok=True)
            (photos / "test" / f"{name}-{i}.png").rename(photos / "test" / name / f"{i}.png")
        (photos / "test" / f"{name}-2.png").unlink()
    project.run()
    assert project.succeeded
    record = json.loads((project.artifacts / "submission.json").read_text())
    assert record["scores"]["valid"]["rows"] == record["scores"]["test"]["rows"] == 6
    trained = stored_predictions(project, "heads/*/bag.json")
    assert len(trained.ids) == 24
    assert not any("/v" in row_id for row_id in trained.ids)
    assert [row[0] for row in lines(project.artifacts / "submission.csv")[1:]] == [
        f"{name}/{i}.png" for name in CLASSES for i in range(2)
    ]


def test_pooled_taps_are_one_input_and_another_tap_one_of_its_own(project):
    project.set("Features", taps="block1_pool:avg, block1_pool:max, block2_pool")
    project.set("Ensemble", method="mean")
    project.run()
    assert project.succeeded
    members = json.loads((project.artifacts / "submission.json").read_text())["members"]
    assert sorted(members) == sorted(
        f"{tap}/{member}"
        for tap in ("pooled", "block2_pool")
        for member in ("fast/seed0", "fast/seed1", "linear/seed0", "lda/seed0")
    )
    assert sum(members.values()) == pytest.approx(1)
