"""What luigid's page is told: every stage that works for long says at what it is and how far, from its beginning to its end."""

import re

from projects import small_project

from pipeline import stage_progress

UNITS = {"ExtractSplit": "images", "TrainBag": "epochs|strengths|shrinkages", "TrainConvNets": "images|epochs"}


def test_every_long_stage_tells_how_far_it_is(tmp_path, monkeypatch):
    told, report = [], stage_progress.StageProgress._report

    def record(progress, percentage, message):
        assert progress.task.set_status_message, "Luigi's worker listens"
        told.append((progress.task.task_family, percentage, message.split("\n")))
        report(progress, percentage, message)

    monkeypatch.setattr(stage_progress.StageProgress, "_report", record)
    monkeypatch.setattr(stage_progress, "_SCHEDULER_SECONDS", 0.0)
    project = small_project(tmp_path)
    project.set("ConvNet", members="1", image_size="16", schedule="1e-3x2")
    project.run()
    assert project.succeeded
    ended = {family for family, percentage, words in told if percentage == 100 and len(words) == 1}
    assert {"IndexImages", *UNITS, "PredictRows", "BuildEnsemble", "WriteSubmission"} <= ended
    for family, unit in UNITS.items():
        seen = [(percentage, words) for name, percentage, words in told if name == family]
        assert seen[0][0] == 0, f"{family} begins"
        under_way = [words for percentage, words in seen if percentage and len(words) >= 3]
        assert under_way, f"{family} says how far it is"
        for _, done, speed, *_ in under_way:
            assert re.fullmatch(rf"\d+ of \d+ ({unit})", done)
            assert speed.endswith("/s")
