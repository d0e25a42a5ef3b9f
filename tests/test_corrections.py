"""`[Dataset] corrections`: labels and rows change when the data set is listed, and no image is computed again."""

import json

import numpy as np
import pytest
from images import make_folder
from listings import build_manifest
from projects import small_project, write_image

import featcache.stages.features
from featcache.cache import Status, open_cache
from featcache.cli import main
from featcache.core import formatting
from featcache.core.rows import Rows
from featcache.dataset.corrections import with_corrections
from featcache.dataset.listing import current_key, list_files
from featcache.dataset.manifest import Manifest
from featcache.errors import SourceError
from featcache.features import processor
from featcache.inspection.run_summary import summary_parts
from featcache.inspection.status import status_lines, status_record
from featcache.settings.specs import DatasetSpec
from pipeline.config import current_project


@pytest.fixture
def root(tmp_path):
    make_folder(tmp_path, {"ants": 3, "bees": 3})
    return tmp_path


def listed(root, *lines, header="id,label"):
    """The manifest, with a file of corrections where there are any lines."""
    path = root / "fixed.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    spec = DatasetSpec("x", "folder", root, corrections=path if lines else None)
    return build_manifest(spec, root / "artifacts")


def labels(manifest, split="train"):
    rows = manifest.splits[split]
    return {name: manifest.class_names[label] for name, label in zip(rows.ids, rows.labels, strict=True)}


def test_a_label_is_corrected_and_a_row_is_dropped(root):
    plain = listed(root)
    first, second, *_ = plain.splits["train"].ids
    manifest = listed(root, f"{first},bees", f"{second},drop")
    assert labels(manifest) == labels(plain) | {first: "bees"}
    rows = manifest.splits["train"]
    assert list(rows.reasons) == ["", "dropped by [Dataset] corrections", "", "", "", ""]
    assert manifest.settings == {"source": "folder", "corrections": "1 relabelled, 1 dropped"}
    assert manifest.key != plain.key
    assert manifest.splits["train"].key != plain.splits["train"].key
    assert list(rows.digests) == list(plain.splits["train"].digests), "row keys are made of these"


def test_what_changes_nothing_keeps_the_key(root):
    plain = listed(root)
    first = plain.splits["train"].ids[0]
    assert listed(root, f"{first},ants", f"{first},ants").key == plain.key
    assert plain.settings == {"source": "folder"}


def test_an_edited_file_is_found_and_the_same_one_elsewhere_is_not(root):
    first, second, *_ = listed(root).splits["train"].ids
    manifest = listed(root, f"{first},bees")

    def key(name="fixed.csv"):
        spec = DatasetSpec("x", "folder", root, corrections=root / name)
        return current_key(spec, root / "artifacts", list_files(spec))

    assert key() == manifest.key
    (root / "moved.csv").write_text((root / "fixed.csv").read_text())
    assert key("moved.csv") == manifest.key
    (root / "fixed.csv").write_text(f"id,label\n{second},bees\n")
    assert key() is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["ants/no.png,bees"], "id='ants/no.png' is no training or valid image: remove this line"),
        (["img_1.png,bees"], "id='img_1.png' is a test image"),
        (["{0},beez"], r"label='beez' of id='{0}' is no class and not 'drop', did you mean bees\?"),
        (["{0},bees", "{0},drop"], "id='{0}' has two labels, 'bees' and 'drop': remove one"),
        (["{0},drop", "{1},bees", "{2},bees"], "class 'ants' has 0 .*, each class needs a usable image"),
        (["{0},bees,x"], "the line of '{0}' has 3 fields, not 2"),
    ],
)
def test_mistakes_are_one_line_that_names_the_file(root, lines, message):
    ids = listed(root).splits["train"].ids
    write_image(root / "test/img_1.png", (1, 2, 3), 0)
    with pytest.raises(SourceError, match=message.format(*ids)) as caught:
        listed(root, *[line.format(*ids) for line in lines])
    assert "fixed.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(root):
    with pytest.raises(SourceError, match=r"fixed.csv.* has the columns 'name', 'label': columns id and label"):
        listed(root, "a,b", header="name,label")
    missing = DatasetSpec("x", "folder", root, corrections=root / "nowhere.csv")
    with pytest.raises(SourceError, match=r"nowhere.csv, the file of \[Dataset\] corrections, is missing"):
        build_manifest(missing, root / "artifacts")


def test_an_id_of_two_splits_needs_the_split(root):
    make_folder(root, {"ants": 1, "bees": 1}, "valid")
    with pytest.raises(SourceError, match=r"id='ants/img_1.png' is in train and valid: say which in a column split"):
        listed(root, "ants/img_1.png,bees")
    manifest = listed(root, "ants/img_1.png,bees,valid", header="id,label,split")
    assert labels(manifest)["ants/img_1.png"] == "ants"
    assert labels(manifest, "valid")["ants/img_1.png"] == "bees"


def test_rows_with_several_labels_get_sets_of_them(tmp_path):
    labels, path = np.array([[1, 0], [0, 1], [1, 1]], np.int8), tmp_path / "fixed.csv"
    rows = Rows(["a", "b", "c"], labels, [""] * 3, ["1", "2", "3"], [""] * 3)
    manifest = Manifest(("cat", "dog"), {"train": rows}, {})
    path.write_text("id,label\na,dog|cat\nb,dog\nc,\n")
    found = with_corrections(manifest, path)
    assert found.splits["train"].labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert found.splits["train"].labels.dtype == np.int8
    assert found.settings == {"corrections": "2 relabelled"}
    path.write_text("id,label\na,dog|cow\n")
    with pytest.raises(SourceError, match=r"label='dog\|cow' of id='a' is no class"):
        with_corrections(manifest, path)


class NumpyBackbone:
    batch_size = 64
    device = processor()
    passes = 0

    def __init__(self, backbone, progress):
        self.taps = {tap.name: (8,) for tap in backbone.spec.taps}

    def forward(self, images):
        NumpyBackbone.passes += 1
        means = images.mean(axis=(1, 2), dtype=np.float32)
        return dict.fromkeys(self.taps, np.concatenate([means, images[:, :5, 0, 0]], axis=1).astype(np.float16))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(featcache.stages.features, "resolved_backbone", NumpyBackbone)
    project = small_project(tmp_path)
    project.set("Heads", hidden="4", schedule="1e-2x1", seeds="1")
    project.run()
    assert project.succeeded
    return project


def test_a_run_with_corrections_copies_every_row_and_says_how_many_are_in_force(project):
    before, passes = open_cache(next((project.artifacts / "features").glob("train-*.h5"))), NumpyBackbone.passes
    path = project.folder / "fixed.csv"
    path.write_text("id,label\ndisc/0.png,square\ndisc/1.png,drop\n")
    project.set("Dataset", corrections=str(path))
    with project.in_force():
        reasons = {stage["stage"]: stage["reason"] for stage in status_record(current_project())["stages"]}
    assert reasons["IndexImages"] == "Dataset: corrections unset -> 1 relabelled, 1 dropped"
    project.run()
    assert project.succeeded
    assert NumpyBackbone.passes == passes, "no forward pass"
    after = open_cache(next((project.artifacts / "features").glob("train-*.h5")))
    kept = [row for row, name in enumerate(after.ids) if name != "disc/1.png"]
    (tap,) = before.taps
    assert np.array_equal(after[tap][kept], before[tap][kept])
    assert [name for name, status in zip(after.ids, after.status, strict=True) if status != Status.OK] == ["disc/1.png"]
    first = list(after.ids).index("disc/0.png")
    assert (before.labels[first], after.labels[first]) == (0, 1)
    assert before.key != after.key
    assert before.taps[tap].key == after.taps[tap].key
    with project.in_force():
        lines = status_lines(status_record(current_project()))
        summary = "\n".join(formatting.plain(summary_parts(current_project())))
    assert "corrections in force: 1 relabelled, 1 dropped" in lines
    assert "3 classes · 1 relabelled, 1 dropped by corrections · 1 rejected" in summary
    assert "against" in summary.partition("run before")[2].splitlines()[0]
    assert "on 22 rows of both; 1 row with another label left out: " in summary
    rejected = (project.artifacts / "rejected.csv").read_text()
    assert "train,disc/1.png,dropped by [Dataset] corrections" in rejected
    assert project.run() == []


def test_suspects_are_listed_and_their_csv_is_a_file_of_corrections(project, capsys):
    planted = "square/planted.png"
    write_image(project.folder / "photos/train" / planted, (200, 60, 60), 900)  # a disc
    project.run()
    capsys.readouterr()
    settings = [
        f"--set={section}.{key}={value}" for section, own in project.settings.items() for key, value in own.items()
    ]
    path = project.folder / "suspects.csv"
    assert main(["suspects", "--json", f"--csv={path}", *settings]) == 0
    record = json.loads(capsys.readouterr().out)
    first = record["suspects"][0]
    assert (first["id"], first["given"], first["label"], first["split"]) == (planted, "square", "disc", "train")
    assert first["probability"] > 0.8 > 0.1 > first["given_probability"]
    assert (record["rows"], record["corrections"]) == (25, "")

    project.set("Dataset", corrections=str(path))
    project.run()
    assert project.succeeded
    capsys.readouterr()
    assert main(["suspects", *settings, f"--set=Dataset.corrections={path}"]) == 0
    said = capsys.readouterr().out
    assert f"corrections in force: {len(record['suspects'])} relabelled" in said
    assert planted not in said, "somebody looked at it"
