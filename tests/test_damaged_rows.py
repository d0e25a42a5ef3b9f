"""Images that turn out damaged when they are decoded, until a class or a split has none left: never a quiet end."""

import shutil

import pytest
from projects import CLASSES, copied_project, write_image

from featcache import stages
from featcache.cache.reader import Reader
from featcache.core import disk
from featcache.core.formatting import plain
from featcache.core.progress import Silent
from featcache.dataset.sources.folder import FolderSource
from featcache.inspection.leaderboard import leaderboard_record
from featcache.inspection.run_summary import summary, summary_parts
from featcache.project.project import Project
from pipeline.config import current_project


@pytest.fixture
def project(finished, tmp_path):
    return copied_project(finished, tmp_path / "project")


def damage(project, pattern, keep=0):
    """Cut the images of `pattern` short, so that listing, which looks at headers, finds nothing wrong."""
    paths = sorted((project.folder / "photos").glob(pattern))
    for path in paths[keep:]:
        path.write_bytes(path.read_bytes()[:-200])
    assert len(paths) > keep


def add_valid(project):
    for number, name in enumerate(CLASSES):
        for i in range(2):
            write_image(project.folder / f"photos/valid/{name}/{i}.png", CLASSES[name], 7000 + 10 * number + i)


@pytest.mark.parametrize(
    ("pattern", "keep", "words"),
    [
        ("train/disc/*", 0, ["0 of 8 for class 'disc'", "'disc/0.png', ", "damaged or truncated PNG"]),
        ("train/*/*", 0, ["0 of 8 for class 'disc', 0 of 8 for class 'square', 0 of 8 for class 'triangle'"]),
        ("test/*", 0, ["none of 9 test images can be used", "'disc-0.png', "]),
    ],
)
def test_too_little_left_is_refused_before_the_training(project, capsys, pattern, keep, words):
    damage(project, pattern, keep)
    worked = project.run()
    assert not project.succeeded
    assert "TrainBag" not in worked
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("featcache: ")]
    for word in (*words, str(project.artifacts / "rejected.csv")):
        assert word in line
    assert (project.artifacts / "rejected.csv").exists()


def test_small_networks_are_not_trained_without_a_class(project, capsys):
    damage(project, "train/square/*")
    project.set("ConvNet", members="1", image_size="16", schedule="3e-3x1", batch_size="8")
    project.run("TrainConvNets")
    assert not project.succeeded
    assert "0 of 8 for class 'square'; the first: 'square/0.png', damaged or truncated" in capsys.readouterr().err


def test_a_class_that_lost_most_is_told_first(project):
    damage(project, "train/disc/*", keep=2)
    add_valid(project)
    damage(project, "valid/*/0.png")
    damage(project, "valid/disc/1.png")
    project.run()
    assert project.succeeded
    with project.in_force():
        facts, lines = summary(current_project()), plain(summary_parts(current_project()))
        board = leaderboard_record(current_project())
    assert lines[1].startswith("notice ")
    assert lines[1].endswith("train: 6 of 8 images of class 'disc' could not be used")
    assert lines[2].endswith("valid: 4 of 6 images could not be used")
    assert lines[3].endswith("valid: 2 of 2 images of class 'disc' could not be used")
    valid = facts["scores"]["valid"]
    assert (valid["rows"], valid["unusable"]) == (2, 4)
    assert f"({valid['right']} of 2; 4 more are unusable)" in "\n".join(lines)
    for entry in board["entries"]:
        assert entry["splits"]["valid"]["accuracy"] in (0, 0.5, 1), "of two rows"


def test_a_split_without_a_usable_image_has_no_score(project):
    add_valid(project)
    damage(project, "valid/*/*")
    project.run()
    assert project.succeeded
    with project.in_force():
        facts, lines = summary(current_project()), plain(summary_parts(current_project()))
        board = leaderboard_record(current_project())
    assert list(facts["scores"]) == ["out of fold"]
    assert lines[1].endswith("valid: 6 of 6 images could not be used, so it has no score")
    assert not any(entry["splits"] for entry in board["entries"])


def test_reasons_are_kept_when_they_arise_and_found_again_where_they_were_not(project, monkeypatch):
    damage(project, "train/disc/*", keep=6)
    project.run()
    assert project.succeeded
    before = (project.artifacts / "rejected.csv").read_bytes()
    assert before.count(b"damaged or truncated PNG") == 2
    kept = project.artifacts / "rejections.jsonl"
    assert len(kept.read_bytes().splitlines()) == 2
    with project.in_force():
        mine = Project(current_project().settings)
        with monkeypatch.context() as patch:
            patch.setattr(FolderSource, "load", lambda *_: pytest.fail("an image was decoded again"))
            stages.finish_features(mine, Silent())
        assert (project.artifacts / "rejected.csv").read_bytes() == before
        stages.extract_split(mine, "train", Silent(), fresh=True)
        assert len(kept.read_bytes().splitlines()) == 2, "a reason that is known was written again"
        kept.write_bytes(b"torn line\n[1]\n[[], [], 2]\n" + kept.read_bytes()[:40])  # or an older version's cache: none
        stages.finish_features(mine, Silent())
    assert (project.artifacts / "rejected.csv").read_bytes() == before


def test_without_workers_the_stage_trains_the_bags_that_are_missing(project):
    with project.in_force():
        mine = Project(current_project().settings)
        assert stages.train_bags(mine, Silent()) == "every bag is trained"
        bags = [mine.bag(*bag) for bag in mine.bags()]
        shutil.rmtree(bags[0].path.parent)
        assert bags[0].path.parent.name.rpartition("-")[0].replace("-", "/") in stages.train_bags(mine, Silent())
        assert all(bag.is_complete() for bag in bags)
        assert [bag.is_complete(mine.run) for bag in bags] == [True, False, False]
        stages.train_bags(mine, Silent(), fresh=True)
        assert all(bag.is_complete(mine.run) for bag in bags)


def test_a_run_reads_each_cache_once_for_its_checksums(project, monkeypatch):
    monkeypatch.setattr(disk, "SETTLE_NS", 0)
    reads, verified = [], Reader._verified

    def noted(reader, candidates):
        reads.append(reader.path.name)
        return verified(reader, candidates)

    monkeypatch.setattr(Reader, "_verified", noted)
    project.set("Heads", hidden="9", dropout="0.3")
    project.run()
    assert project.succeeded
    assert sorted(name.partition("-")[0] for name in reads) == ["test", "train"]
