"""Remembered runs: listed, compared on shared rows, taken up again without computing, kept by gc, forgotten."""

import json
import shutil

import numpy as np
import pytest
from projects import copied_project, small_project

from featcache.cli import main
from featcache.features import processor
from featcache.inspection.runs import compare_runs
from featcache.project import open_project, remembered_runs
from featcache.project.remembered_runs import last_run
from featcache.training import judge_parts

SETTINGS = """# mine: keep this line
[Dataset]
name = photos
# where they are
source = folder
path = {folder}/photos

[Features]
weights = random
taps = block1_pool:avg
image-size = 32
precision = float32

[Heads]
preset = fast
hidden =
    8,
    4
# why not
schedule = 1e-2x2
seeds = 2
folds = 2
[Report]
enabled = false
[Paths]
artifacts = {folder}/artifacts
[core]
local_scheduler = true
"""


class ColourBackbone:
    batch_size = 64
    device = processor()

    def __init__(self, backbone, progress):
        self.taps = {tap.name: (64,) for tap in backbone.spec.taps}

    def forward(self, images):
        corner = images[:, :8, :8, 0].reshape(len(images), 64).astype(np.float32)
        return dict.fromkeys(self.taps, corner + images.mean(axis=(1, 2), dtype=np.float32).repeat(22, axis=1)[:, :64])


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """A project with two runs: of other heads, and then with another metric."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featcache.stages.features.resolved_backbone", ColourBackbone)
        project = small_project(tmp_path_factory.mktemp("runs"))
        project.run()
        project.run()  # changes nothing
        project.set("Heads", hidden="4")
        project.set("Ensemble", metric="qwk")
        project.run()
        assert project.succeeded
    return project


@pytest.fixture
def project(twice, tmp_path, monkeypatch):
    project = copied_project(twice, tmp_path / "copy")
    monkeypatch.chdir(project.folder)
    (project.folder / "luigi.cfg").write_text(SETTINGS.format(folder=project.folder))
    return project


def answer(capsys, *words):
    capsys.readouterr()
    assert main(["runs", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def of(project):
    return remembered_runs(open_project(project.settings))


def test_a_finished_run_is_remembered_once_with_what_it_came_to(project):
    second, first = of(project)
    assert {path.name for path in first.folder.iterdir()} == {"run.json", "out_of_fold.npz", "submission.csv"}
    stored = next(project.artifacts.glob(f"submissions/{first.name}/submission.csv"))
    assert (first.folder / "submission.csv").read_bytes() == stored.read_bytes()
    assert first.settings["Heads"] | {"hidden": "8"} == first.settings["Heads"], "as texts, with all defaults"
    assert first.settings["Submission"]["clip"] == "auto"
    assert first.record["seconds"].keys() >= {"features", "heads", "ensemble"}
    for run in (first, second):
        rows, score = run.rows(), run.record["scores"]["out of fold"]
        assert rows.probabilities.dtype == np.float32
        assert len(rows.ids) == len(set(rows.ids)) == 24
        assert rows.ids[0] == "disc/0.png"
        judged = judge_parts([(slice(None), rows.probabilities)], rows.labels).scores()
        assert judged.log_loss == pytest.approx(score["log_loss"], abs=1e-6)
        assert judged.accuracy == score["accuracy"]
    assert second.record["metric"] == "qwk"
    assert not np.array_equal(second.rows().predicted, second.rows().probabilities.argmax(axis=1)) or score["qwk"]


def test_runs_are_listed_with_what_changed_and_compared_on_the_same_draws(project, capsys):
    second, first = of(project)
    record = answer(capsys)
    assert [run["run"] for run in record["runs"]] == [second.name, first.name]
    assert record["runs"][0]["changed"] == ["Heads: hidden 8 -> 4", "Ensemble: metric log_loss -> qwk"]
    assert record["runs"][1]["changed"] == []
    found = record["comparison"]
    assert found["runs"] == [first.name, second.name]
    assert found["rows"] == 24
    gain = found["scores"][1]["log_loss"] - found["scores"][0]["log_loss"]
    low, high = found["difference"]["log_loss"]
    assert low <= gain <= high
    assert found["scores"][1]["qwk"] == pytest.approx(second.record["scores"]["out of fold"]["qwk"])
    assert answer(capsys, second.name, first.name[:5])["comparison"]["difference"]["log_loss"] == pytest.approx(
        [-high, -low]
    )
    current = answer(capsys, "--set", "Heads.hidden=8")
    assert current["current"] == first.name
    assert current["comparison"]["runs"] == [second.name, first.name], "these settings' against the newest other"
    assert main(["runs"]) == 0
    text = capsys.readouterr().out
    assert f"{second.name} against {first.name}: Heads: hidden 8 -> 4; Ensemble: metric log_loss -> qwk" in text
    assert "on 24 rows of both: " in text


def test_rows_that_were_relabelled_or_removed_since_are_left_out(project):
    _, first = of(project)
    path = first.folder / "out_of_fold.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["labels"][:3] = (arrays["labels"][:3] + 1) % 3
    np.savez(path, **{name: each[:20] if len(each) else each for name, each in arrays.items()})
    found = compare_runs(*of(project)[::-1])
    assert (found["rows"], found["relabelled"]) == (17, 3)
    path.write_bytes(path.read_bytes()[:-300])
    assert main(["runs"]) == 1


def test_the_run_before_is_the_newest_of_other_settings(project):
    second, first = of(project)
    assert last_run(open_project(project.settings)).name == second.name, "these settings' own run is the first one"
    project.set("Heads", hidden="4")
    project.set("Ensemble", metric="qwk")
    assert last_run(open_project(project.settings)).name == first.name


def test_use_writes_the_settings_and_nothing_is_computed_then(project, capsys):
    second, first = of(project)
    before = (project.folder / "luigi.cfg").read_text()
    record = answer(capsys, "--use", second.name[:4])
    assert record["stored"]
    assert [(each["section"], each["key"], each["before"], each["now"]) for each in record["written"]] == [
        ("Heads", "hidden", "8,\n4", "4"),
        ("Ensemble", "metric", "log_loss", "qwk"),
    ]
    after = (project.folder / "luigi.cfg").read_text()
    assert after == before.replace("hidden =\n    8,\n    4\n", "hidden = 4\n") + "\n[Ensemble]\nmetric = qwk\n"
    assert answer(capsys, "--use", second.name)["written"] == []
    project.set("Heads", hidden="4")
    project.set("Ensemble", metric="qwk")
    assert project.run() == []
    assert main(["runs", "--use", first.name]) == 0
    assert "[Heads] hidden     4 -> 8" in (text := capsys.readouterr().out)
    assert (
        f"luigi.cfg now has the settings of run {first.name}; luigi --module pipeline Submit computes nothing" in text
    )
    assert (
        (project.folder / "luigi.cfg")
        .read_text()
        .startswith("# mine: keep this line\n[Dataset]\nname = photos\n# where")
    )


def test_use_refuses_a_file_that_it_cannot_change_safely(project, capsys):
    path = project.folder / "luigi.cfg"
    path.write_text(
        path.read_text()
        .replace("[Heads]\n", "[Heads]\n  hidden: 8\n  # odd\n")
        .replace("hidden =\n    8,\n    4\n", "")
    )
    before = path.read_text()
    assert main(["runs", "--use", of(project)[0].name]) == 1
    assert "is of a form that can't be changed safely: set by hand [Heads] hidden = 4" in capsys.readouterr().err
    assert path.read_text() == before


def test_gc_keeps_what_remembered_runs_need_until_they_are_forgotten(project, capsys):
    def gc(*words):
        capsys.readouterr()
        assert main(["gc", "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)

    second, first = of(project)
    (project.folder / "luigi.cfg").write_text(
        SETTINGS.format(folder=project.folder).replace("hidden =\n    8,\n    4", "hidden = 8")
    )
    kept = gc()
    assert kept["items"] == []
    assert kept["remembered_bytes"] > 0
    assert main(["du"]) == 0
    assert "remembered" in capsys.readouterr().out
    assert answer(capsys, "--forget", second.name) == {"run": second.name, "forgotten": True}
    rooms = {item["path"].split("/")[-2] for item in gc("--yes")["items"]}
    assert rooms == {"heads", "predictions", "ensembles", "submissions"}, "features are those of the other run, too"
    assert [run.name for run in of(project)] == [first.name]
    assert project.run() == ["WriteSubmission"], "which only shows the other one again"


def test_mistakes_are_one_line(project, capsys):
    for words, message, code in (
        (["nothing"], "RUN='nothing' is no run of", 1),
        (["--use", ""], "", 0),
        (["--forget", "x"], "RUN='x' is no run of", 1),
        (["a", "--use", "b"], "one of --use and --forget", 2),
    ):
        assert main(["runs", *words]) == code
        captured = capsys.readouterr()
        assert message in captured.err
        assert len(captured.err.splitlines()) == bool(code)
    shutil.rmtree(project.artifacts / "runs")
    assert main(["runs"]) == 0
    assert "no run is remembered yet" in capsys.readouterr().out
