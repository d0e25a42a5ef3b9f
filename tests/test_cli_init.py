"""`featcache init` on the layouts in which data sets come, made small: what it says, and that its luigi.cfg lists them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import encoded, make_folder, make_idx, picture, table

from featcache.cli import main
from featcache.dataset.listing import preview_images
from featcache.project import configured_project, configured_sections
from featcache.settings import SECTIONS

DOWNLOAD = Path("download")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, without a luigi.cfg."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUIGI_CONFIG_PATH", raising=False)


def put(*names, side=120):
    for number, name in enumerate(names):
        (DOWNLOAD / name).parent.mkdir(parents=True, exist_ok=True)
        (DOWNLOAD / name).write_bytes(encoded(picture(side, side, seed=number)))


def write(name, header, *lines):
    (DOWNLOAD / name).parent.mkdir(parents=True, exist_ok=True)
    (DOWNLOAD / name).write_text("\n".join([header, *lines, ""]))


def took(capsys, *flags):
    """What is written of [Dataset] but its name and path, and the record."""
    assert main(["init", str(DOWNLOAD), "--json", *flags]) == 0, capsys.readouterr().err
    record = json.loads(capsys.readouterr().out)
    project = configured_project()
    listed = preview_images(project.settings.dataset, Path("artifacts"))
    assert {split: len(rows) for split, rows in listed.splits.items()} == record["rows"]
    dataset = {name: text for name, text in record["settings"]["Dataset"].items() if name not in ("name", "path")}
    return dataset, record


def refused(capsys, *flags):
    assert main(["init", str(DOWNLOAD), *flags]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert not Path("luigi.cfg").exists()
    return said


GOLDEN = """\
# Written by featcache init. All other settings have their defaults; `luigi --module pipeline --help` lists them.

[Dataset]
# the data set's name, and the folder of its results below artifacts/
name = download
# where images come from: digits (embedded), folder, table, filename, parquet, csv or idx
source = table
# the data set's folder; not used by digits
path = download
# of source = table: the file of ids and labels, below path: CSV, TSV, JSON lines or Parquet
table = train.csv
# the table's column of ids: file names or paths, with or without suffix; empty: its first column
id = image_id
# the table's column of classes, or one column a class or label with 0 and 1, comma-separated
label = label
# folders of the images, below path, comma-separated; empty: all of path; of source = parquet: the column of
# images
images = train_images
# the folder of the test images, or a table of their ids such as sample_submission.csv, below path
test = test_images

[Features]
# side of the square every image is resized to, in pixels; auto: 48 for digits, idx and csv, else 224
image_size = 64

[Submission]
# labels (one class a row; of several labels a column of 0 and 1 each), probabilities, tags (a row's labels in
# one column, blank-separated), top5 (or another number of classes a row), or auto: by the sample or metric
format = labels
"""


def test_a_table_beside_two_folders(capsys):
    """Row 1 of the field: cassava and most others."""
    put(*(f"train_images/{n}.jpg" for n in range(6)), *(f"test_images/t{n}.jpg" for n in (1, 2)), side=32)
    write("train.csv", "image_id,label", *(f"{n}.jpg,{n % 3}" for n in range(6)))
    write("sample_submission.csv", "image_id,label", "t1.jpg,0", "t2.jpg,0")
    assert main(["init", str(DOWNLOAD)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "layout      images, and a table of their labels: train.csv (download)",
        "rows        train 6 · test 2",
        "classes     3: 0 (2), 1 (2), 2 (2)",
        "ids         such as 0.jpg",
        "images      32 x 32 pixels",
        "submission  image_id, label (labels)",
        "luigi.cfg is written; next: luigi --module pipeline Submit",
    ]
    assert Path("luigi.cfg").read_text() == GOLDEN
    assert main(["init", str(DOWNLOAD)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "download.cfg is written; next: LUIGI_CONFIG_PATH=download.cfg luigi --module pipeline Submit"
    assert Path("download.cfg").read_text() == GOLDEN
    assert main(["init", str(DOWNLOAD)]) == 1
    assert "download.cfg is there already: remove it" in capsys.readouterr().err


def test_a_table_and_one_folder_of_all_images(capsys):
    """Row 1, where the sample alone tells which images are for testing."""
    put(*(f"images/{n}.jpg" for n in range(6)))
    write("train.csv", "id;species", *(f"{n};{'ab'[n % 2]}" for n in range(4)))
    write("sample_submission.csv", "id,a,b", "4,0.5,0.5", "5,0.5,0.5")
    dataset, record = took(capsys)
    assert dataset == {
        "source": "table", "table": "train.csv", "id": "id", "label": "species", "images": "images",
        "test": "sample_submission.csv",
    }  # fmt: skip
    assert record["format"] == "probabilities"


def test_a_column_a_label_with_patients_as_groups(capsys):
    """Row 5: ranzcr, plant-2020."""
    put(*(f"train/{n}.jpg" for n in range(10)), "test/a.jpg")
    lines = (f"{n},{n % 2},{1 - n % 2},p{n // 2}" for n in range(10))
    write("train.csv", "StudyInstanceUID,healthy,rust,PatientID", *lines)
    write("sample_submission.csv", "StudyInstanceUID,healthy,rust", "a,0,0")
    dataset, record = took(capsys)
    assert (dataset["label"], dataset["groups"], dataset["test"]) == ("healthy, rust", "PatientID", "test")
    assert (record["groups"], record["format"]) == (5, "probabilities")


def test_several_labels_a_row_are_recognised(capsys):
    """Row 6: plant-2021, planet."""
    put(*(f"train/{n}.jpg" for n in range(5)), "test/7.jpg")
    tags = ["a", "ab", "c", "abc", "b"]
    for sign, separator in {" ": "blank", "|": "|", ";": ";", ",": ","}.items():
        write("train.csv", "image,labels", *(f'{n},"{sign.join(each)}"' for n, each in enumerate(tags)))
        write("sample_submission.csv", "image,labels", "7,a b")
        dataset, record = took(capsys)
        assert (dataset["label"], dataset["separator"]) == ("labels", separator)
        assert (record["several"], record["classes"]) == (True, {"a": 3, "b": 3, "c": 2})
        assert (record["format"], record["settings"]["Ensemble"]) == ("tags", {"metric": "f1_samples"})
        Path("luigi.cfg").unlink()
    write("train.csv", "image,a,b,c", "0,1,0,0", "1,1,1,0", "2,0,0,1", "3,0,0,0")
    write("sample_submission.csv", "image,a,b,c", "7,0,0,0")
    dataset, record = took(capsys)
    assert dataset["label"] == "a, b, c"
    assert (record["several"], record["rejected"], record["format"]) == (True, {}, "probabilities")


def test_labels_in_file_names(capsys):
    """Row 7: dogs-vs-cats-redux."""
    put(*(f"train/{kind}.{n}.jpg" for kind in ("cat", "dog") for n in range(3)), "test/1.jpg", "test/2.jpg")
    write("sample_submission.csv", "id,label", "1,0.5", "2,0.5")
    dataset, record = took(capsys)
    assert (dataset["source"], dataset["images"], dataset["test"]) == ("filename", "train", "test")
    assert (record["classes"], record["format"]) == ({"cat": 3, "dog": 3}, "probabilities")


@pytest.mark.parametrize(
    ("splits", "rows"), [(("train", "val", "test"), (4, 4, 4)), (("",), (4,)), (("deeper/train",), (4,))]
)
def test_class_folders(capsys, splits, rows):
    """Row 9: plant-seedlings, chest-xray-pneumonia."""
    for split in splits:
        make_folder(DOWNLOAD, {"a": 2, "b": 2}, split)
    dataset, record = took(capsys)
    assert dataset == {"source": "folder"}
    assert tuple(record["rows"].values()) == rows


def test_class_folders_and_a_table_of_groups(capsys):
    put(*(f"train/c{n % 2}/{n}.jpg" for n in range(10)))
    write("driver_imgs_list.csv", "subject,classname,img", *(f"p{n // 2},c{n % 2},{n}.jpg" for n in range(10)))
    dataset, _ = took(capsys)
    assert dataset == {"source": "folder", "groups": "driver_imgs_list.csv:subject"}


def test_metadata_beside_images(capsys):
    """Row 10: an image folder of the Hugging Face hub."""
    for split in ("train", "test"):
        put(*(f"{split}/{n}.png" for n in range(4)))
        records = [json.dumps({"file_name": f"{n}.png", "kind": "ab"[n % 2]}) for n in range(4)]
        write(f"{split}/metadata.jsonl", *records)
    dataset, record = took(capsys)
    assert (dataset["table"], dataset["label"], dataset["test"]) == ("train/metadata.jsonl", "kind", "test")
    assert record["rows"] == {"train": 4, "test": 4}


def test_parquet_with_bytes(capsys):
    """Row 10: a data set of the Hugging Face hub."""
    for split in ("train", "validation"):
        (DOWNLOAD / "data").mkdir(parents=True, exist_ok=True)
        images = [{"bytes": encoded(picture(120, 120, seed=n)), "path": None} for n in range(4)]
        pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}), DOWNLOAD / f"data/{split}-0.parquet")
    dataset, record = took(capsys)
    assert dataset == {"source": "parquet", "label": "label", "images": "image"}
    assert record["rows"] == {"train": 4, "valid": 4}


def test_arrays(capsys):
    DOWNLOAD.mkdir()
    images = pytest.importorskip("numpy").zeros((4, 4, 4), "uint8")
    write("train.csv", table(images, [0, 1, 0, 1]).rstrip())
    assert took(capsys)[0] == {"source": "csv"}
    Path("luigi.cfg").unlink()
    (DOWNLOAD / "train.csv").unlink()
    make_idx(DOWNLOAD, images, [0, 1, 0, 1])
    assert took(capsys)[0] == {"source": "idx"}


def test_what_could_be_several_things_is_asked(capsys):
    put(*(f"{n}.jpg" for n in range(8)))
    write("meta.csv", "name,colour,shape", *(f"{n},{'rg'[n % 2]},{'os'[n // 4]}" for n in range(8)))
    said = refused(capsys)
    assert "[Dataset] label could be colour, shape: say which, featcache init PATH --set Dataset.label=colour" in said
    dataset, _ = took(capsys, "--set", "Dataset.label=shape", "--set", "Features.image_size=96")
    assert (dataset["label"], configured_project().settings.features.image_size) == ("shape", 96)


def test_what_is_no_data_set(capsys):
    assert "PATH='download' is not a folder of images but nothing there" in refused(capsys)
    DOWNLOAD.mkdir()
    assert "has no folder train/<class>/: make it" in refused(capsys)
    put("train/a/1.jpg")
    assert "has only class 'a', at least 2 classes" in refused(capsys)


def test_a_sample_of_other_rows(capsys):
    put(*(f"train/{n}.jpg" for n in range(4)), "test/a.jpg")
    write("train.csv", "id,label", *(f"{n},{n % 2}" for n in range(4)))
    write("sample_submission.csv", "id,label", "b,0.5")
    assert "has other ids than the test images: 1 of 1 have no image" in refused(capsys)


@pytest.mark.shared
def test_real_downloads(shared, capsys):
    assert main(["init", str(shared / "data/cactus"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["rows"], record["columns"]) == ({"train": 2400, "test": 600}, ["id", "has_cactus"])
    assert (record["format"], record["classes"]) == ("probabilities", {"0": 600, "1": 1800})
    Path("luigi.cfg").unlink()
    counts = {}
    for table_name in ("train.csv", "train-columns.csv"):
        assert main(["init", str(shared / "data/posters"), "--json", "--set", f"Dataset.table={table_name}"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert (record["rows"], record["format"]) == ({"train": 1200, "test": 300}, "probabilities")
        counts[table_name] = record["classes"]
        Path("luigi.cfg").unlink()
    assert len(counts["train.csv"]) == 19
    assert counts["train.csv"] == counts["train-columns.csv"]


def test_without_a_folder_it_is_every_setting_for_the_digits(capsys):
    assert main(["init", "--set", "Heads.folds=3"]) == 0
    said = capsys.readouterr().out
    assert "embedded digits" in said
    assert "train 1,438 · test 359" in said
    sections = configured_sections()
    assert {section: list(values) for section, values in sections.items()} == {
        section: list(known) for section, known in SECTIONS.items()
    }
    assert sections["Heads"]["folds"] == "3"
    assert main(["init"]) == 0
    assert "LUIGI_CONFIG_PATH=digits.cfg" in capsys.readouterr().out
