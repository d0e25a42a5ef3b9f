"""`featcache bundle`: where there is no featcache, it writes the submission that the pipeline writes, for new images, too."""

import csv
import gzip
import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from projects import copied_project, flags, write_image

from featcache.cli import main
from featcache.ensemble import layout_of, write_submission_file
from featcache.ensemble.decisions import Decision
from featcache.ensemble.ensemble import Decided
from featcache.inference import offline_kernel
from featcache.settings import SubmissionSpec

WITHOUT_FEATCACHE = """
import builtins, json, os, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("featcache", "pipeline", "h5py_", "luigi"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
for cell in json.load(open("predict.ipynb"))["cells"]:
    if cell["cell_type"] == "code":
        test, sample = sys.argv[1:]
        exec(cell["source"].replace('TEST = ""', f"TEST = {test!r}").replace('SAMPLE = ""', f"SAMPLE = {sample!r}"))
"""


def write_sample(path, ids):
    lines = [f"{row_id},0.4,0.3,0.3" for row_id in ids]
    path.write_text("\n".join(["image,triangle,disc,square", *lines]) + "\n")


def rows(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def odd_images(folder):
    """Images that must be turned, flattened or given up."""
    noise = np.random.default_rng(5).integers(0, 256, (150, 210, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise[..., :3]).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(noise).save(folder / "transparent.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 250).save(folder / "sixteen.png")
    Image.fromarray(noise[..., :3]).quantize(16).save(folder / "palette.gif")
    (folder / "damaged.png").write_bytes((folder / "disc-0.png").read_bytes()[:700])
    return ["turned", "transparent", "sixteen", "palette", "damaged"]


def test_it_writes_the_pipelines_submission_without_featcache_for_images_that_came_later(
    finished, tmp_path, monkeypatch
):
    project = copied_project(finished, tmp_path / "project")
    photos, bundle = project.folder / "photos", tmp_path / "bundle"
    project.set("Features", image_fit="stretch")
    project.set("Submission", format="probabilities", clip="0.9")
    ids = [path.stem for path in sorted((photos / "test").iterdir(), reverse=True)]
    write_sample(photos / "sample_submission.csv", ids)
    monkeypatch.chdir(tmp_path)
    project.run()
    assert project.succeeded
    assert main(["bundle", str(bundle), *flags(project)]) == 0
    assert {path.name for path in bundle.iterdir()} == {"model.keras", "featcache.json", "predict.py", "predict.ipynb"}
    write_image(photos / "test/later.png", (60, 200, 60), 4321)
    write_sample(photos / "sample_submission.csv", ["later", *ids, *odd_images(photos / "test")])
    project.run()
    assert project.succeeded
    words = [sys.executable, "-c", WITHOUT_FEATCACHE, photos / "test", photos / "sample_submission.csv"]
    done = subprocess.run(words, cwd=bundle, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "submission.csv: 15 rows, 1 of them without a usable image" in done.stdout
    theirs, ours = rows(bundle / "submission.csv"), rows(project.artifacts / "submission.csv")
    assert theirs[0] == ours[0] == ["image", "triangle", "disc", "square"]
    assert [row[0] for row in theirs] == [row[0] for row in ours]
    values = [np.array([row[1:] for row in table[1:]], float) for table in (theirs, ours)]
    np.testing.assert_allclose(*values, atol=5e-6)
    assert np.ptp(values[0], axis=0).min() > 0.05


DECISIONS = {
    "the most probable": Decision(),
    "cut points": Decision(cuts=(0.7, 1.1)),
    "shifted": Decision(shift=(0.5, -0.2, 0.0)),
}


@pytest.mark.parametrize("form", ["labels", "probabilities", "top2"])
@pytest.mark.parametrize("decision", DECISIONS.values(), ids=DECISIONS)
def test_rows_are_those_of_featcache(form, decision, tmp_path):
    table, names = np.random.default_rng(1).dirichlet(np.ones(3), 50), ["a", "b", "c"]
    ids, path = [f"{row}.jpg" for row in range(50)], tmp_path / "submission.csv"
    decided = Decided("qwk", decision, {}, 0.0, (0.0, 0.0), 0.0, (), ())
    write_submission_file(path, ids, table, names, SubmissionSpec(format=form), decided=decided)
    facts = {
        "class_names": names,
        "decision": asdict(decision),
        "submission": {"top": 2 * (form == "top2"), "classes": [0, 1, 2] if form == "probabilities" else None},
    }
    assert list(offline_kernel.rows_of(ids, table, facts)) == rows(path)[1:]


@pytest.mark.parametrize("form", ["tags", "labels", "probabilities"])
@pytest.mark.parametrize(("filled", "expected"), [(False, False), (True, False), (False, True)])
def test_rows_of_several_labels_are_those_of_featcache(form, filled, expected, tmp_path):
    table, names = np.random.default_rng(1).random((50, 3)), ["a", "b", "c"]
    ids, path = [f"{row}.jpg" for row in range(50)], tmp_path / "submission.csv"
    decision = Decision(thresholds=(0.8, 0.6, 0.9), filled=filled, expected=expected)
    decided, spec = Decided("f1_macro", decision, {}, 0.0, (0.0, 0.0), 0.0, (), ()), SubmissionSpec(format=form)
    write_submission_file(path, ids, table, names, spec, decided=decided, several=True)
    layout = layout_of(spec, names, None, "f1_macro", several=True)
    facts = {"class_names": names, "decision": asdict(decision), "submission": asdict(layout)}
    if layout.classes is not None:
        facts["submission"]["classes"] = list(layout.classes)
    assert list(offline_kernel.rows_of(ids, table, facts)) == rows(path)[1:]


def test_ids_find_their_files_however_they_are_written(tmp_path):
    images = ["a/1.jpg", "a/2.jpg", "b/3.png"]
    for ids in (images, ["1.jpg", "2.jpg", "3.png"], ["1", "2", "3"], ["test/a/1.jpg", "test/a/2.jpg", "test/b/3.png"],
                ["test/a/1", "test/a/2", "test/b/3"], ["x/1.tif", "x/2.tif", "x/3.tif"]):  # fmt: skip
        assert offline_kernel.match_files(ids, images) == images
    assert offline_kernel.match_files(["3", "9"], images) == ["b/3.png", None]
    with pytest.raises(SystemExit, match="no image is called like an id of the sample, 'x'"):
        offline_kernel.match_files(["x"], images)
    sample = tmp_path / "sample.csv.gz"
    sample.write_bytes(gzip.compress(b"id,label\n007,0\nNA,0\n"))
    assert offline_kernel.read_ids(str(sample)) == ["007", "NA"]


def test_images_are_in_natural_order_and_squares_as_in_a_run(tmp_path):
    from featcache.dataset import decode_rgb

    for name in ("10.png", "b/2.PNG", "9.png"):
        write_image(tmp_path / name, (9, 99, 199), 1)
    (tmp_path / "notes.txt").write_text("none")
    assert offline_kernel.image_files(tmp_path) == ["9.png", "10.png", "b/2.PNG"]
    for fit in ("stretch", "crop", "pad"):
        content = (tmp_path / "9.png").read_bytes()
        assert np.array_equal(offline_kernel.read_image(tmp_path / "9.png", 32, fit), decode_rgb(content, 32, fit=fit))


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("Dataset", {"source": "digits", "name": "digits", "path": ""}, "source='digits' has no folder of test images"),
        ("Heads", {"dropout": "0.7"}, "has no ensemble of these settings"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(finished, tmp_path, capsys, section, values, message):
    project = copied_project(finished, tmp_path / "project")
    project.set(section, **values)
    assert main(["bundle", str(tmp_path / "new"), *flags(project)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def test_the_script_needs_only_what_kaggles_image_has():
    from test_architecture import ROOT, imports

    found = {name.partition(".")[0] for name in imports(ROOT / "src/featcache/inference/offline_kernel.py")}
    assert found - sys.stdlib_module_names == {"keras", "numpy", "pandas", "PIL"}


def test_the_notebook_is_one_of_version_4(tmp_path):
    from featcache.inference.bundle import _notebook

    notebook = json.loads(json.dumps(_notebook({"test": "test", "sample": None})))
    assert (notebook["nbformat"], len(notebook["cells"])) == (4, 2)
    for cell in notebook["cells"]:
        assert cell["id"]
    compile(notebook["cells"][1]["source"], "cell", "exec")
