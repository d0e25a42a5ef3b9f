"""Every mistake that people make ends in one clear line and a non-zero exit status; nothing is lost."""

import csv
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import runs
from command import Outcome, command, environment, luigi, photos
from images import greys, idx1, idx3, make_idx, table
from projects import copied_project, small_project, write_image, write_photos

import featcache

SETTINGS, FAILED = 2, 30  # as docs and [retcode] have them


def refused(outcome, status, *words):
    """The one line of a refusal; it must name `words`."""
    assert outcome.status == status, outcome
    assert len(outcome.lines) == 1, outcome.err
    assert outcome.lines[0].startswith("featcache: ")
    assert "Traceback" not in outcome.out
    for word in words:
        assert word in outcome.lines[0]
    return outcome.lines[0]


def log(folder, name="photos"):
    return (folder / "artifacts" / name / "luigi.log").read_text()


def records(path):
    return list(csv.DictReader(path.read_text().splitlines()))


# ---- settings: before anything is scheduled


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no stage given", "luigi --module pipeline Submit"]),
        (["Sumbit"], ["'Sumbit'", "did you mean Submit?"]),
        (["Submit", "--Features-imagesize", "96"], ["--Features-imagesize", "did you mean --Features-image-size?"]),
        (["Submit", "--Feature-image-size", "96"], ["--Feature-image-size", "did you mean --Features-image-size?"]),
        (["Submit", "--image-size", "96"], ["--image-size", "did you mean --Features-image-size?"]),
        (["Submit", "--ImageSize=96"], ["--ImageSize", "did you mean --Features-image-size?"]),
        (["Submit", "--batch_size", "9"], ["--batch_size", "did you mean --Heads-batch-size?"]),
        (["Submit", "--features-copies", "2"], ["--features-copies", "did you mean --Features-copies?"]),
        (["Submit", "--Dataset-path", "x"], ["[Dataset] source='digits'", "path='x'", "--Dataset-source folder"]),
        (["Submit", "--Dataset-source", "idx", "--Dataset-path", "x"], ["[Dataset] name", "--Dataset-name NAME"]),
        (["Submit", "--workers", "0"], ["[core] workers", "at least 1"]),
        (["Submit", "--workers", "two"], ["[core] workers", "'two'"]),
        (["Submit", "--Features-image-size"], ["--Features-image-size", "expected one argument", "--help"]),
        (["Submit", "--Features-image-size", "big"], ["[Features] image_size", "a whole number", "'big'"]),
        (["Submit", "--Features-image-size", "16"], ["[Features] image_size", "at least 32", "VGG16"]),
        (["Submit", "--Features-backbone", "vgg6"], ["[Features] backbone", "did you mean VGG16"]),
        (["Submit", "--Features-precision", "float8"], ["[Features] precision", "bfloat16"]),
        (["Submit", "--Heads-dropout", "half"], ["[Heads] dropout", "a number", "'half'"]),
        (["Submit", "--Heads-schedule", "1e-3"], ["[Heads] schedule", "1e-3x1, 1e-2x2"]),
        (["Submit", "--Ensemble-method", "greddy"], ["[Ensemble] method", "did you mean greedy?"]),
        (["Submit", "--Submission-gzip", "maybe"], ["[Submission] gzip", "true or false"]),
        (["Submit", "--Submission-clip", "2"], ["[Submission] clip", "(0, 1]"]),
        (["Submit", "--Dataset-source", "folders"], ["[Dataset] source", "did you mean folder?"]),
        (["Submit", "--Dataset-source", "folder"], ["[Dataset] path is missing", "the folder of the images"]),
        (["Submit", "--Dataset-name", "a/b"], ["[Dataset] name", "'a/b'"]),
        (["Submit", "--Dataset-sample-submission", "no.csv"], ["[Dataset] sample_submission", "no.csv"]),
        (["TrainBag"], ["'tap'", "--help"]),
        (["Submit", "--scheduler-port", "9"], ["no luigid answers at http://localhost:9", "luigid --port 9"]),
        (["Submit", "--Paths-artifacts", "/proc/none"], ["[Paths] artifacts", "/proc/none", "--Paths-artifacts"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith(("-", "S")) else None,
)
def test_a_mistake_on_the_command_line(tmp_path, arguments, words):
    refused(luigi(tmp_path, *arguments), SETTINGS, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Dataste]\nname = x\n", ["[Dataste]", "did you mean [Dataset]?"]),
        ("[features]\ncopies = 1\n", ["[features]", "did you mean [Features]?"]),
        ("[Features]\nimagesize = 96\n", ["'imagesize'", "did you mean image_size?"]),
        ("[Features]\ncopies = many\n", ["[Features] copies", "a whole number", "'many'"]),
        ("[Dataset]\nname = 100%(x)s\n", ["name", "Dataset", "100%(x)s"]),
    ],
    ids=["section", "case", "key", "kind", "interpolation"],
)
def test_a_mistake_in_luigi_cfg(tmp_path, text, words):
    (tmp_path / "luigi.cfg").write_text(text)
    refused(luigi(tmp_path, "Submit"), SETTINGS, *words)
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("text", ["name = x\n", "[Dataset]\nname = x\nname = y\n"], ids=["no section", "twice"])
def test_a_luigi_cfg_that_luigi_cannot_parse_stops_luigi_itself_with_file_and_line(tmp_path, text):
    (tmp_path / "luigi.cfg").write_text(text)  # read while Luigi is imported: nothing of ours has begun
    outcome = luigi(tmp_path, "Submit")
    assert outcome.status != 0
    assert re.search(r"luigi\.cfg'?(, line: 1| \[line +3\]).*name", "".join(outcome.lines[-3:]))


def test_artifacts_below_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    refused(luigi(tmp_path, "Submit", Paths_artifacts="taken"), SETTINGS, "[Paths] artifacts", "taken is a file")


def test_a_flag_without_effect_is_named(tmp_path):
    idle = {"--ConvNet-image-size": "32", "--Cluster-workers": "2", "--Features-augmentation": "zoom 0.1"}
    words = [word for pair in idle.items() for word in pair]
    outcome = luigi(tmp_path, "IndexImages", *words)
    assert outcome.status == 0
    notices = [line for line in outcome.out.splitlines() if line.startswith("NOTICE: ")]
    assert [line.split()[1] for line in notices] == list(idle)
    assert all("has no effect with" in line for line in notices)
    more = ["--ConvNet-members", "1", "--Cluster-scheduler", "local", "--Features-copies", "1"]
    assert "NOTICE" not in luigi(tmp_path, "IndexImages", *words, *more).out


@pytest.mark.parametrize("optimised", [[], ["-OO"]], ids=["plain", "OO"])
def test_help_names_stages_and_settings_and_fits_80_columns(tmp_path, optimised):
    words = command("--help")
    done = subprocess.run(
        [words[0], *optimised, *words[1:]], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    assert (outcome.status, outcome.err) == (0, "")
    assert "None" not in outcome.out
    assert "List images, labels and groups as the manifest." in outcome.out
    for word in ("Submit", "TrainHeads", "--rerun", "--Features-image-size", "(default: auto)"):
        assert word in outcome.out
    assert "scope" not in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80


# ---- data sets: when IndexImages lists them


def nothing(folder):
    folder.mkdir()


def no_class(folder):
    (folder / "train").mkdir(parents=True)


def images_outside_classes(folder):
    write_image(folder / "train/1.png", (9, 9, 9), 1)


def empty_class(folder):
    write_photos(folder)
    (folder / "train/hollow").mkdir()


def one_class(folder):
    for number in range(3):
        write_image(folder / f"train/only/{number}.png", (9, 9, 9), number)


def other_test_class(folder):
    write_photos(folder)
    write_image(folder / "test/disc/1.png", (9, 9, 9), 1)
    write_image(folder / "test/dsic/1.png", (9, 9, 9), 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, ["photos", "nothing there", "[Dataset] path"]),
        (lambda folder: folder.write_text(""), ["photos", "a file", "[Dataset] path"]),
        (nothing, ["photos", "no folder train/<class>/", "[Dataset] path"]),
        (no_class, ["train", "has no folder for a class", "train/<class>/"]),
        (images_outside_classes, ["train", "has no folder for a class"]),
        (empty_class, ["'hollow'"]),
        (one_class, ["at least 2 classes", "only"]),
        (other_test_class, ["test", "'dsic'", "rename"]),
    ],
    ids=["missing", "file", "empty", "no class", "outside", "no image", "one class", "test class"],
)
def test_a_folder_that_cannot_be_trained_on(tmp_path, make, words):
    make(tmp_path / "photos")
    refused(luigi(tmp_path, "Submit", **photos(tmp_path / "photos")), FAILED, *words)
    assert "SourceError" in log(tmp_path), "the traceback is in the log"


IMAGES, LABELS = greys(), [7, 3, 7, 3, 9, 9]
TABLE = table(IMAGES, LABELS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TABLE.replace("label", "digit", 1), ["line 1", "'label'"]),
        (TABLE.replace("pixel7", "pixel77", 1), ["line 1", "pixel7 is missing"]),
        (re.sub(r"^7,\d+", "7,x", TABLE, count=1, flags=re.M), ["line 2", "column pixel0", "'x'"]),
        (re.sub(r"^3,\d+", "3,300", TABLE, count=1, flags=re.M), ["line 3", "column pixel0", "0 to 255", "300"]),
        (TABLE + "1,2\n", ["line 8 has 2 fields, line 1 has 17"]),
        (re.sub(r",\w+$", "", TABLE, flags=re.M), ["square", "15 pixel columns"]),
    ],
    ids=["no label", "missing pixel", "no number", "300", "ragged", "not square"],
)
def test_a_table_with_a_mistake(tmp_path, text, words):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/train.csv").write_text(text)
    outcome = luigi(tmp_path, "Submit", **photos(tmp_path / "digits", Dataset_source="csv"))
    refused(outcome, FAILED, "train.csv", *words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "train-images-idx3-ubyte",
            b"\0\0\x0d\x03" + idx3(IMAGES)[4:],
            ["magic=0x00000d03 instead of 0x00000803", "0x00000d03"],
        ),
        ("train-images-idx3-ubyte", idx3(IMAGES)[:-1], ["111 bytes", "take 112"]),
        ("train-labels-idx1-ubyte", idx1(LABELS[:-1]), ["5 labels for 6 images"]),
        ("train-labels-idx1-ubyte", b"\0\0", ["idx header", "has 2 bytes"]),
    ],
    ids=["magic", "length", "labels", "header"],
)
def test_an_idx_file_with_a_mistake(tmp_path, name, content, words):
    make_idx(tmp_path, IMAGES, LABELS)
    (tmp_path / name).write_bytes(content)
    refused(luigi(tmp_path, "Submit", **photos(tmp_path, Dataset_source="idx")), FAILED, name, *words)


@pytest.mark.parametrize(
    ("header", "settings", "words"),
    [
        (
            "id,disc,square,triangle",
            {},
            ["4 columns (id, disc, square, triangle), where format=labels has 2", "format = probabilities"],
        ),
        (
            "id,label",
            {"Submission_columns": "img, class"},
            ["[Submission] columns = img, class differ from id, label of ", "drop the setting"],
        ),
        ("id,disc,square", {"Submission_format": "probabilities"}, ["one for each of 3 classes"]),
        (
            "id,label",
            {"Submission_format": "probabilities"},
            ["for each of 3 classes", "set [Submission] format = labels"],
        ),
        ("", {"Submission_columns": "img, a, b"}, ["[Submission] columns", "where format=labels has 2"]),
    ],
)
def test_columns_that_cannot_be_are_told_before_any_feature_is_computed(tmp_path, header, settings, words):
    write_photos(tmp_path / "photos")
    names = sorted(path.name for path in (tmp_path / "photos/test").iterdir())
    if header:
        rows = [",".join([name, *["0"] * header.count(",")]) for name in names]
        (tmp_path / "photos/sample_submission.csv").write_text("\n".join([header, *rows]) + "\n")
    outcome = luigi(tmp_path, "Submit", **photos(tmp_path / "photos", **settings))
    refused(outcome, FAILED, *words)
    assert "ExtractSplit" not in outcome.out


def test_rows_that_cannot_be_scored_are_refused_before_any_feature_is_computed(tmp_path):
    outcome = luigi(tmp_path, "Submit", **photos(write_photos(tmp_path / "photos", train=1)))
    refused(outcome, FAILED, "no class has 2 different images", "add images")
    assert "ExtractSplit" not in outcome.out


def test_a_data_set_without_test_images_says_so_when_it_is_listed(tmp_path):
    write_photos(tmp_path / "photos", test=0)
    outcome = luigi(tmp_path, "IndexImages", **photos(tmp_path / "photos"))
    assert outcome.status == 0
    assert "no test images, which predictions and the submission need: put them into PATH/test" in outcome.out


def test_a_table_of_names_is_told_from_one_of_pixels(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/train.csv").write_text("id,label\n1,rose\n")
    outcome = luigi(tmp_path, "IndexImages", **{**photos(tmp_path / "photos"), "Dataset_source": "csv"})
    refused(
        outcome,
        FAILED,
        "has no columns pixel0, pixel1, ..., but 'id', 'label'",
        "source = table (featcache init PATH does)",
    )


def test_a_sample_submission_with_other_ids_is_told_before_any_feature_is_computed(tmp_path):
    write_photos(tmp_path / "photos")
    (tmp_path / "photos/sample_submission.csv").write_text("id,label\nnobody.png,disc\n")
    outcome = luigi(tmp_path, "Submit", **photos(tmp_path / "photos"))
    refused(outcome, FAILED, "sample_submission.csv", "'nobody.png'", "[Dataset] path or sample_submission")
    assert "ExtractSplit" not in outcome.out


def test_a_clip_too_low_for_the_classes_is_told_before_any_feature_is_computed(tmp_path):
    outcome = luigi(tmp_path, "Submit", **photos(write_photos(tmp_path / "photos"), Submission_clip="0.3"))
    refused(outcome, FAILED, "[Submission] clip", "above 1/3 for 3 classes", "clip=0.3")
    assert "ExtractSplit" not in outcome.out


# ---- what is known only with the backbone


def test_an_unknown_tap_is_told_once_with_the_near_ones(tmp_path, capfd):
    project = small_project(tmp_path)
    project.set("Features", taps="block5_pol")
    project.run()
    assert not project.succeeded
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("featcache: ")]
    for word in ("[Features] taps", "'block5_pol'", "did you mean block5_pool"):
        assert word in line
    assert not list(project.artifacts.glob("features/*.h5")), "nothing was begun"


def test_a_disk_too_small_is_told_with_what_is_needed_before_the_work(tmp_path, monkeypatch, capfd):
    project, usage = small_project(tmp_path), shutil.disk_usage
    project.set("Features", taps="block1_pool")

    def little_for_artifacts(folder):
        return usage(folder)._replace(free=500_000 if Path(folder).is_relative_to(project.artifacts) else 10**12)

    monkeypatch.setattr(shutil, "disk_usage", little_for_artifacts)
    project.run()
    assert not project.succeeded
    said = capfd.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("featcache: ")]
    assert re.search(r"need[^.]* [\d.,]+ MB.*0\.5 MB (are )?free.*make room", line)
    assert "Traceback" not in said.out
    assert not list(project.artifacts.glob("features/*.h5")), "nothing was begun"


# ---- images that can't be used: rejected, counted, and still a row of the submission


def png(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_images_that_cannot_be_used_are_set_aside_and_the_submission_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMPY_BACKBONE", "1")
    folder = write_photos(tmp_path / "photos")
    sound = (folder / "train/disc/0.png").read_bytes()
    bad = {
        "train/disc/zero.png": b"",
        "train/disc/cut.png": sound[: len(sound) // 2],
        "train/square/text.jpg": b"not an image",
        "train/square/bomb.png": png(60_000, 60_000),
        "test/cut.png": sound[: len(sound) // 2],
        "test/zero.jpg": b"",
        "test/drawing.svg": b"<svg/>",
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    (folder / "train/triangle/0.png").rename(folder / "train/triangle/0.gif")  # a PNG of another name can be used
    outcome = luigi(tmp_path, "Submit", **photos(folder, Submission_format="probabilities"))
    assert (outcome.status, outcome.err) == (0, ""), outcome
    artifacts = tmp_path / "artifacts/photos"
    rejected = {f"{row['split']}/{row['id']}": row["reason"] for row in records(artifacts / "rejected.csv")}
    assert rejected.keys() == bad.keys()
    assert "0 bytes" in rejected["train/disc/zero.png"]
    assert "damaged or truncated PNG" in rejected["train/disc/cut.png"]
    assert "not an image" in rejected["train/square/text.jpg"]
    assert "decompression bomb" in rejected["train/square/bomb.png"]
    rows = {row["id"]: row for row in records(artifacts / "submission.csv")}
    assert len(rows) == 12
    for name in ("cut.png", "zero.jpg", "drawing.svg"):
        shares = np.array([float(rows[name][c]) for c in ("disc", "square", "triangle")])
        np.testing.assert_allclose(shares, 1 / 3, atol=1e-3)
    notices = [line for line in outcome.out.splitlines() if line.startswith("NOTICE: ")]
    assert any("7 images" in line and "rejected.csv" in line for line in notices)
    assert any("could not be used; their rows hold the classes' shares in training" in line for line in notices)
    assert re.search(r"^rows .*7 rejected", outcome.out, re.M)


# ---- damage


def test_heads_are_not_trained_on_damaged_features(finished, tmp_path):
    """They would look complete for ever, also once the cache is repaired."""
    project = copied_project(finished, tmp_path / "copy")
    (cache,) = (project.artifacts / "features").glob("train-*.h5")
    offset = featcache.open(cache)._structure.places["block1_pool_avg"].offset
    with cache.open("r+b") as stream:
        stream.seek(offset + 100)
        stream.write(b"\x01\x02")
    before = {path: path.read_bytes() for path in project.artifacts.glob("heads/*/*")}
    code, said = runs.finish(runs.start([*runs.command(project, stage="TrainHeads"), "--rerun"]))
    assert code == FAILED, said
    assert f"are in blocks that do not match their checksums: run featcache repair {cache}" in said
    assert {path: path.read_bytes() for path in project.artifacts.glob("heads/*/*")} == before
