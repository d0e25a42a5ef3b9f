import json

import numpy as np
import pytest
from projects import small_project, write_image

from featcache.cache import open_cache
from featcache.core.formatting import plain
from featcache.core.system import processor_name
from featcache.features.devices import Device
from featcache.inspection.leaderboard import compared
from featcache.inspection.run_summary import _hints, summary, summary_parts
from pipeline.config import current_project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = small_project(tmp_path_factory.mktemp("summary"))
    (project.folder / "photos/train/disc/broken.png").write_bytes(b"no image")
    write_image(project.folder / "photos/valid/disc/v.png", (200, 60, 60), 5000)
    project.run()
    assert project.succeeded
    return project


def facts_and_lines(project):
    with project.in_force():
        return summary(current_project()), plain(summary_parts(current_project()))


def test_it_says_what_a_person_wants_to_know(project):
    facts, lines = facts_and_lines(project)
    text = "\n".join(lines)
    assert facts["rows"] == {"train": 25, "valid": 1, "test": 9}
    assert "train 25 · valid 1 · test 9 · 3 classes · 1 rejected (rejected.csv)" in text
    record = json.loads((project.artifacts / "submission.json").read_text())
    oof = record["scores"]["out of fold"]
    assert f"out of fold  accuracy {oof['accuracy']:.4f} (" in text
    assert f"), log-loss {oof['log_loss']:.4f} ({oof['interval']['log_loss'][0]:.4f} to " in text
    assert "valid        accuracy" in text
    assert "best single" in text
    regression = record["baselines"][0]
    score = regression["scores"]
    assert f"baseline     {regression['name']}: accuracy {score['accuracy']:.4f}, log-loss" in text
    assert f"; the ensemble: {compared(regression, oof)}" in text
    assert "             majority class: accuracy " in text
    assert f"RANDOM (good enough for trials, far behind on photos), computed in float32 on {processor_name()}" in text
    assert str(project.artifacts / "submission.csv") in text
    assert "(9 rows: id,label)" in text
    assert str(project.artifacts / "features") in text
    assert str(project.artifacts / "luigi.log") in text
    hints = lines[next(i for i, line in enumerate(lines) if line.startswith("try next")) :]
    assert "luigi --module pipeline Submit" in hints[0]
    assert [line.split("  --")[0].strip() for line in hints[1:]] == ["trained weights", "more pixels", "pooled layers"]
    assert max(map(len, hints)) <= 80


def test_what_to_try_next_on_photos_with_the_defaults(project):
    def hints(**features):
        project.settings["Features"].update(features)
        with project.in_force():
            lines = _hints(current_project(), {"backbones": [{"weights": {"kind": "imagenet"}}]})
        return [line.split("  ")[1] for line in lines[1:]]

    kept = dict(project.settings["Features"])
    try:
        assert hints(taps="auto", image_size="auto") == ["more images", "mirrored images", "another network"]
        assert hints(mirror="true") == ["more images", "another network"]
        assert hints(backbone="efficientnetb0") == ["more images"]
        for setting, flag in (("auto", "--Features-weights FILE"), ("random", "--Features-weights imagenet")):
            facts = {"backbones": [{"weights": {"kind": "random", "setting": setting}}]}
            with project.in_force():
                assert flag in _hints(current_project(), facts)[1], "what wasn't to be had is not proposed again"
    finally:
        project.settings["Features"] = kept


def test_time_is_that_of_the_stages(project):
    facts, lines = facts_and_lines(project)
    assert list(facts["seconds"]) == ["index", "features", "heads", "predictions", "ensemble"]
    assert facts["seconds"]["heads"] > 0
    assert facts["seconds"]["features"] > 0
    assert any(line.startswith("time ") and "heads" in line for line in lines)


def test_it_can_be_shown_as_json(project):
    facts, _ = facts_and_lines(project)
    assert json.loads(json.dumps(facts)) == facts


def test_removed_caches_do_not_break_it(project):
    for path in (project.artifacts / "features").glob("valid-*.h5"):
        path.rename(path.with_suffix(".away"))
    try:
        facts, lines = facts_and_lines(project)
    finally:
        for path in (project.artifacts / "features").glob("*.away"):
            path.rename(path.with_suffix(".h5"))
    assert facts["scores"]
    assert any(line.startswith("submission") for line in lines)


class PretendedBackbone:
    """On the processor, as TensorFlow can't use the card."""

    batch_size = 64
    device = Device("two cores", None, "Tesla T4 is not used: tensorflow finds no CUDA libraries: pip install them")

    def __init__(self, project, progress):
        self.taps = {tap.name: (8,) for tap in project.spec.taps}

    def forward(self, images):
        return dict.fromkeys(self.taps, images[:, :8, 0, 0].astype(np.float32))


def test_a_gpu_that_is_not_used_is_reported_in_the_run_and_in_the_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("featcache.stages.features.resolved_backbone", PretendedBackbone)
    project, problem = small_project(tmp_path), PretendedBackbone.device.problem
    project.run()
    assert project.succeeded
    before_it_is_done = capsys.readouterr().out.partition("ExtractSplit")[0]
    assert f"NOTICE: {problem}" in before_it_is_done, "before the work, not after it"
    facts, lines = facts_and_lines(project)
    assert facts["notices"] == [problem]
    assert facts["devices"] == ["two cores"]
    assert any(line.startswith("notice ") and problem in line for line in lines)
    assert any(line.endswith(", computed in float32 on two cores") for line in lines)
    run = open_cache(next(project.artifacts.glob("features/train-*.h5"))).run
    assert (run["device"], run["device_problem"]) == ("two cores", problem)
    bag = json.loads(next(project.artifacts.glob("heads/*/bag.json")).read_text())
    assert bag["device"] == processor_name()
