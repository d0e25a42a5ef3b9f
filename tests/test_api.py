"""featcache in Python: `fit`, what it returns, and `encode`; the run of a notebook is the run of the command line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import LuigiProject, write_photos

import featcache
import featcache.api.encoding
import featcache.inference.predictor
import featcache.stages.features
from featcache.cli import main
from featcache.core.folder_lock import folder_lock
from featcache.errors import CacheError, SettingsError, SourceError, TrainingError
from featcache.features import processor
from featcache.inspection import status_record, would_run
from featcache.project import configured_project, file_sections

SMALL = {
    "weights": "random", "taps": ["block1_pool:avg"], "image_size": 32, "precision": "float32", "preset": "fast",
    "hidden": 8, "schedule": "1e-2x2", "seeds": 1, "folds": 2, "report_enabled": False,
}  # fmt: skip


class Backbone:
    """64 numbers of an image, by NumPy; `numpy_run`, once imported, is every test's."""

    batch_size = 64
    device = processor()
    computed = 0
    fails_at = None

    def __init__(self, backbone):
        self.taps = {tap.name: (64,) for tap in backbone.spec.taps}

    def forward(self, images):
        if Backbone.computed == self.fails_at:
            raise KeyboardInterrupt
        Backbone.computed += len(images)
        corner = images[:, :8, :8, 0].reshape(len(images), 64).astype(np.float32)
        colour = images.mean(axis=(1, 2), dtype=np.float32).repeat(22, axis=1)[:, :64]
        return dict.fromkeys(self.taps, corner + colour)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with photos, a backbone of NumPy, and a luigi.cfg that nobody may read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUIGI_CONFIG_PATH", raising=False)
    for module in (featcache.stages.features, featcache.inference.predictor, featcache.api.encoding):
        monkeypatch.setattr(module, "resolved_backbone", lambda backbone, progress: Backbone(backbone))
    Backbone.computed, Backbone.fails_at = 0, None
    write_photos(tmp_path / "PHOTOS", train=4, test=2)
    return tmp_path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """One project, for tests that only look at it."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        for module in (featcache.stages.features, featcache.inference.predictor):
            patch.setattr(module, "resolved_backbone", lambda backbone, progress: Backbone(backbone))
        patch.chdir(write_photos(folder / "PHOTOS", train=4, test=2).parent)
        return featcache.fit(folder / "PHOTOS", quiet=True, **SMALL)


def test_a_run_in_python_is_the_run_of_the_command_line(here, capsys, monkeypatch):
    Path("luigi.cfg").write_text("[Features]\nimage_size = 7\n[Nonsense]\na = b\n")
    project = featcache.fit("PHOTOS", **SMALL)
    assert "WriteSubmission" in capsys.readouterr().out
    Path("luigi.cfg").unlink()
    sections = file_sections(["artifacts/PHOTOS/luigi.cfg"])
    assert LuigiProject(here, sections).run() == []
    monkeypatch.setenv("LUIGI_CONFIG_PATH", "artifacts/PHOTOS/luigi.cfg")
    assert not would_run(status_record(configured_project()))
    assert featcache.load_project().submission == project.submission == here / "artifacts/PHOTOS/submission.csv"


def test_a_run_of_the_command_line_is_continued_in_python(here, capsys):
    texts = {"Features": "weights taps image_size precision", "Heads": "preset hidden schedule seeds folds"}
    sections = {
        section: {key: SMALL[key][0] if key == "taps" else str(SMALL[key]) for key in keys.split()}
        for section, keys in texts.items()
    }
    sections["Dataset"] = {"name": "PHOTOS", "source": "folder", "path": "PHOTOS"}
    assert LuigiProject(here, {**sections, "Report": {"enabled": "false"}}).run("TrainHeads")
    capsys.readouterr()
    featcache.fit("PHOTOS", **SMALL)
    said = capsys.readouterr().out
    assert "BuildEnsemble" in said
    assert "TrainBag" not in said
    assert "IndexImages" not in said


def test_frames_and_arrays(fitted):
    features, labels, ids = fitted.features()
    assert (features.shape, features.dtype, labels.tolist()) == ((12, 64), np.float32, [0] * 4 + [1] * 4 + [2] * 4)
    assert ids[0] == "disc/0.png"
    assert [len(part) for part in fitted.features("test", tap="block1_pool:avg")] == [6, 6, 6]
    assert fitted.class_names == ("disc", "square", "triangle")
    board = fitted.leaderboard()
    assert board["member"].iloc[0] == "ensemble"
    assert (board["log_loss low"] <= board["log_loss"]).all()
    held_out = fitted.out_of_fold()
    assert list(held_out) == ["id", "label", "fold", "disc", "square", "triangle"]
    np.testing.assert_allclose(held_out[["disc", "square", "triangle"]].sum(axis=1), 1)
    assert held_out["label"].tolist() == [fitted.class_names[label] for label in labels]
    assert fitted.status()["state"].tolist() == ["complete"] * 6


def test_what_isnt_there_is_named(fitted, monkeypatch):
    with pytest.raises(CacheError, match=r"tap='block9' is not one of block1_pool_avg"):
        fitted.features(tap="block9")
    with pytest.raises(SourceError, match="only train, test"):
        fitted.features("valid")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SettingsError, match="pip install pandas"):
        fitted.leaderboard()


def test_what_a_notebook_shows(fitted):
    assert repr(fitted).startswith("<featcache PHOTOS: ")
    assert "log-loss" in repr(fitted)
    assert "<td" in fitted._repr_html_()
    reader = featcache.open(next(fitted.folder.glob("features/train-*.h5")))
    assert "(12, 64)" in reader._repr_html_()
    page = featcache.api.report_page.ReportPage(fitted.folder / "report.html")
    assert page._repr_html_() is None
    page.write_text('<p title="a">&amp;</p>')
    assert '<iframe srcdoc="&lt;p title=&quot;a&quot;&gt;&amp;amp;&lt;/p&gt;"' in page._repr_html_()
    page.unlink()


def test_images_of_every_kind_are_predicted_as_their_file_is(fitted):
    file = fitted.folder.parents[1] / "PHOTOS/test/disc-0.png"
    image = Image.open(file)
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    array = np.asarray(image)
    frame = fitted.predict([file, image, array, np.stack([array, array]), "broken.png", str(file)])
    assert frame["image"].tolist() == [str(file), "1", "2", "3", "4", "broken.png", str(file)]
    assert frame["class"].tolist()[:3] == [frame["class"][6]] * 3
    probabilities = frame[list(fitted.class_names)].to_numpy()
    np.testing.assert_allclose(probabilities[:5], probabilities[[6] * 5], rtol=1e-5)  # BLAS rounds by the row's place
    assert np.isnan(probabilities[5]).all()
    assert frame["error"][5]
    assert frame.columns[-1] == "farther_than"
    assert len(fitted.predict(file.parent)) == 6


@pytest.mark.parametrize(
    ("images", "fault"),
    [
        ([np.zeros((4, 4))], "dtype=float64"),
        ([np.zeros((4, 4, 3, 3, 3), np.uint8)], "shape=(4, 4, 3, 3, 3)"),
        ([object()], "type=object"),
        ([], "no image"),
        ("nowhere", "not there"),
    ],
)
def test_what_is_no_image_is_named(fitted, images, fault):
    with pytest.raises(SourceError, match=r"^[^\n]+$") as caught:
        fitted.predict(images)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "fault"),
    [
        ({"imagesize": 96}, "unknown setting imagesize=96, did you mean image_size?"),
        ({"image_size": 96, "features_image_size": 96}, "given twice"),
        ({"path": "."}, "give one of them"),
        ({"image_size": "a\nb"}, "can't be written to luigi.cfg"),
        ({"image_size": object}, "is of type type"),
        ({"image_size": "x"}, "[Features] image_size='x' is not auto or a whole number"),
    ],
)
def test_a_wrong_keyword_is_one_line(keywords, fault):
    with pytest.raises(SettingsError, match=r"^[^\n]+$") as caught:
        featcache.fit("PHOTOS", **keywords)
    assert fault in str(caught.value)
    assert not Path("artifacts").exists()


def test_what_fails_in_a_stage_is_raised_and_not_printed(capsys):
    write_photos(Path("ONLY"), train=4, test=0)
    with pytest.raises(SettingsError, match="pseudo_weight"):
        featcache.fit("ONLY", pseudo_weight=0.5, quiet=True, **SMALL)
    assert "pseudo_weight" not in "".join(capsys.readouterr())
    project = featcache.load_project("ONLY")
    assert "no results" in repr(project)
    with pytest.raises(TrainingError):
        project.leaderboard()
    with pytest.raises(CacheError):
        project.out_of_fold()
    with pytest.raises(SettingsError, match=r"run featcache\.fit"):
        featcache.load_project("nowhere")


def test_an_interrupt_keeps_what_was_computed(monkeypatch):
    monkeypatch.setenv("FEATCACHE_BLOCK_BYTES", "1")
    monkeypatch.setattr(Backbone, "batch_size", 4)
    Backbone.fails_at = 8
    with pytest.raises(KeyboardInterrupt):
        featcache.fit("PHOTOS", **SMALL)
    assert list(Path("artifacts/PHOTOS/features").glob("*.partial.h5"))
    with folder_lock(Path("artifacts/PHOTOS"), "test", lambda line: pytest.fail("it is held")):
        pass
    before, Backbone.fails_at = Backbone.computed, None
    assert featcache.fit("PHOTOS", quiet=True, **SMALL).submission
    assert Backbone.computed - before < 12 + 6


def test_images_are_encoded_once():
    images = sorted(Path("PHOTOS/train/disc").iterdir())
    settings = {name: SMALL[name] for name in ("weights", "image_size", "precision", "taps")}
    encoded = featcache.encode(images, cache="kept", **settings)
    assert (encoded.shape, encoded.dtype, Backbone.computed) == ((4, 64), np.float32, 4)
    again = featcache.encode([*reversed(images), Image.open(images[0])], cache="kept", **settings)
    assert (again[:4] == encoded[::-1]).all()
    assert Backbone.computed == 5, "the picture's PNG isn't the file's"
    np.testing.assert_array_equal(again[4], encoded[0])
    assert (featcache.encode(images, **settings) == encoded).all()
    Path("broken.png").write_bytes(b"no image")
    assert np.isnan(featcache.encode(["broken.png", images[0]], **settings)).any(axis=1).tolist() == [True, False]
    with pytest.raises(SettingsError, match=r"folds is a setting of \[Heads\]"):
        featcache.encode(images, folds=3)


def test_the_public_names_are_all_there_is():
    assert dir(featcache) == sorted(featcache.__all__)
    assert all(getattr(featcache, name) is not None for name in featcache.__all__)
    with pytest.raises(AttributeError):
        featcache.nonsense  # noqa: B018


def test_a_pipeline_of_somebody_else_is_named(monkeypatch, capsys):
    Path("pipeline.py").write_text("raise SystemExit('imported')")
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "pipeline")
        patch.syspath_prepend(Path.cwd())
        with pytest.raises(
            SettingsError, match=r"pipeline.py is in the way of featcache's package pipeline: rename it"
        ):
            featcache.fit("PHOTOS", quiet=True, **SMALL)
        assert main(["run"]) == 2
    assert "pipeline.py is in the way" in capsys.readouterr().err


def test_featcache_run_is_luigi(monkeypatch):
    called = []

    def execute(program, words):
        called.append(words[2:])
        raise SystemExit

    monkeypatch.setattr(os, "execv", execute)
    for words in (["run"], ["run", "--Features-image-size", "96", "-q"], ["run", "TrainHeads", "--rerun"]):
        with pytest.raises(SystemExit):
            main(words)
    luigi = ["-m", "luigi", "--module", "pipeline"]
    assert called == [
        [*luigi, "Submit"],
        [*luigi, "Submit", "--Features-image-size", "96", "--quiet"],
        [*luigi, "TrainHeads", "--rerun"],
    ]
    assert main(["run", "--json"]) == 2
    assert main(["status", "--nonsense"]) == 2


def test_a_notebooks_shell_shows_no_escape_codes():
    program = "from featcache.core.console import console; import sys; print(console(sys.stdout))"
    forced = {**os.environ, "FORCE_COLOR": "1", "JPY_PARENT_PID": "1"}
    assert subprocess.run([sys.executable, "-c", program], env=forced, capture_output=True).stdout == b"None\n"
