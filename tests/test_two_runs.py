"""Two runs at once on one artifacts folder: the second waits and says for whom, and nothing is ever mixed."""

import contextlib
import os
import re
import subprocess
import sys
import time

import kills
import pytest
import runs
from command import command, environment, photos
from projects import copied_project, small_project, write_photos

from featcache.cache import file_lock
from featcache.cli import main
from featcache.core import disk
from featcache.core.folder_lock import LOCK_NAME, folder_lock, holder_record
from featcache.errors import CacheLockedError
from pipeline import stage


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not list(path.parent.glob(path.name)):
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(numpy_backbone, tmp_path_factory):
    return kills.undisturbed(tmp_path_factory.mktemp("undisturbed"))


def test_two_runs_of_the_same_settings_end_with_the_same_bytes(tmp_path, whole):
    project = whole.fresh(tmp_path)
    first = runs.start(runs.command(project), **runs.SHORT_BLOCKS)
    second = runs.start(runs.command(project), **runs.SHORT_BLOCKS)  # the very same command
    outcomes = [runs.finish(process) for process in (first, second)]
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    assert kills.differing(project, whole, missing=True) == []
    assert sum(said.count("285 computed") for _, said in outcomes) == 1, "the work is done once"
    assert runs.leftovers(project.artifacts) == []


def test_two_runs_of_other_settings_never_mix(tmp_path, whole):
    """One may be stopped in one line, as the other replaced what it needs; who ran alone then has its own results."""
    project, other = whole.fresh(tmp_path), whole.fresh(tmp_path)
    other.set("Heads", dropout="0.3")
    both = [runs.start(runs.command(each), **runs.SHORT_BLOCKS) for each in (project, other)]
    for code, said in map(runs.finish, both):
        assert code in (0, 20, 25, 30), said
        assert "Traceback" not in said
        assert code == 0 or "run the same command again" in said
    code, said = runs.finish(runs.start(runs.command(project), **runs.SHORT_BLOCKS))
    assert code == 0, said
    mine = runs.contents(project.artifacts)  # and what the other run made, under names of its own
    assert [name for name, value in whole.contents.items() if mine.get(name) != value] == []


def test_the_second_run_says_who_holds_the_folder_and_goes_on_when_it_dies(tmp_path, whole):
    project = whole.fresh(tmp_path)
    first = runs.start(runs.command(project), **runs.SHORT_BLOCKS)
    wait_for(project.artifacts / "features/train-*.partial.h5")
    first.send_signal(19)  # SIGSTOP: alive, and holding
    second = runs.start(runs.command(project, workers=2), **runs.SHORT_BLOCKS)
    said = b""
    while b"waiting for it to finish" not in said:
        piece = os.read(second.stdout.fileno(), 4096)
        assert piece, said
        said += piece
    runs.kill_group(first)
    code, rest = runs.finish(second)
    assert code == 0, rest
    said_who = rf"is in use by process {first.pid} on \S+ since 20\d\d-\S+, running ExtractSplit; waiting for it"
    assert re.search(said_who, said.decode()), said
    assert kills.differing(project, whole, missing=True) == []


def test_the_same_command_for_two_projects_at_once_and_a_temporary_folder_that_is_another_users(tmp_path):
    """Luigi's own lock would refuse the second, and fail on a folder in which it can't write."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/luigi").write_text("nobody's to write in, root's neither")
    words = command("IndexImages", "--lock-size", "1", **photos("photos"))
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        write_photos(folder / "photos")
        (folder / "luigi.cfg").write_text("[core]\nno_lock = false\n")
    both = [
        subprocess.Popen(
            words,
            cwd=folder,
            env=environment(TMPDIR=str(tmp_path / "tmp")),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for folder in folders
    ]
    for folder, (status, said) in zip(folders, map(runs.finish, both), strict=True):
        assert status == 0, said
        assert "IndexImages" in said
        assert (folder / "artifacts/photos/manifest.json").is_file()


def test_a_lock_left_by_a_dead_process_is_recognised_and_what_it_left_is_removed(tmp_path, caplog):
    notices = []
    with folder_lock(tmp_path, "TrainBag", notices.append):
        left = (tmp_path / LOCK_NAME).read_bytes()
    (tmp_path / LOCK_NAME).write_bytes(left)  # as after SIGKILL: a name, and no lock
    (tmp_path / "heads/.tmp-1a2b3c4d-bag").mkdir(parents=True)
    (tmp_path / ".tmp-1a2b3c4d-manifest.arrow").touch()
    (tmp_path / "heads/bag").mkdir()
    (tmp_path / "heads/bag/.tmp-1a2b3c4d-bag.json").touch()
    with folder_lock(tmp_path, "TrainBag", notices.append):
        assert sorted(path.name for path in tmp_path.rglob("*")) == [LOCK_NAME, "bag", "heads"]
    assert notices == []
    assert f"process {holder_record()['pid']} on" in caplog.text
    assert "running TrainBag died" in caplog.text


def test_what_a_live_process_is_writing_outlasts_the_clean_up_after_a_dead_one(finished, tmp_path):
    """As `featcache predict --csv` into the artifacts folder does it, while a run was killed and the next one begins."""
    folder = copied_project(finished, tmp_path / "project").artifacts
    writes = (
        "import sys, pathlib\nfrom featcache.core.disk import replacing, replacing_folder\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with replacing(folder / 'out.csv') as path, replacing_folder(folder / 'features/arrays', new=True) as arrays:\n"
        "    path.write_text('whole')\n    (arrays / 'x.npy').write_text('whole')\n"
        "    print('begun', flush=True)\n    sys.stdin.read()\n"
    )
    dies = (
        "import os, sys, pathlib\nfrom featcache.core.disk import temporary_name\nfrom featcache.core.folder_lock import folder_lock\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with folder_lock(folder, 'TrainBag', print):\n"
        "    temporary_name(folder / 'half.csv').touch()\n    temporary_name(folder / 'features/half').mkdir()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment()}
    live = subprocess.Popen([sys.executable, "-c", writes, str(folder)], **pipes)
    assert live.stdout.readline() == b"begun\n"
    assert subprocess.run([sys.executable, "-c", dies, str(folder)], env=environment()).returncode == -9
    assert len(runs.leftovers(folder)) == 4
    with folder_lock(folder, "TrainBag", print):
        assert not [name for name in runs.leftovers(folder) if "half" in name]
    old = time.time() - 3600
    for path in folder.rglob(".tmp-*"):
        os.utime(path, (old, old))
    flags = [
        f"--set={section}.{key}={text}" for section, values in finished.settings.items() for key, text in values.items()
    ]
    assert main(["gc", "--yes", *flags, f"--set=Paths.artifacts={folder.parent}"]) == 0
    live.communicate(b"")
    assert live.returncode == 0
    assert (folder / "out.csv").read_text() == (folder / "features/arrays/x.npy").read_text() == "whole"
    assert runs.leftovers(folder) == []


def test_whose_a_temporary_file_is(tmp_path):
    mine = disk.temporary_name(tmp_path / "x.csv")
    assert mine.suffix == ".csv"
    assert not disk.is_abandoned(mine)
    machine, pid = disk.owner().split(".")
    assert disk.is_abandoned(mine, disk.owner()), "it is known to be dead"
    assert disk.is_abandoned(tmp_path / ".tmp-1a2b3c4d-bag"), "of an older version"
    assert disk.is_abandoned(tmp_path / f".tmp-{machine}.{2**30}.000000-x.csv")
    assert disk.is_abandoned(tmp_path / f".tmp-{machine}.{2**80}.000000-x.csv")
    assert not disk.is_abandoned(tmp_path / f".tmp-{machine}.1.000000-x.csv")
    other = tmp_path / f".tmp-{int(machine, 16) ^ 1:08x}.{pid}.000000-x.csv"
    other.touch()
    assert not disk.is_abandoned(other)
    os.utime(other, (time.time() - 90_000,) * 2)
    assert disk.is_abandoned(other)


def test_who_looks_whether_a_file_is_being_written_never_stops_its_writer(tmp_path):
    path = tmp_path / "x.partial.h5"
    path.touch()
    looks = "import sys, pathlib\nfrom featcache.cache.file_lock import is_held\nwhile True: is_held(pathlib.Path(sys.argv[1]))"
    others = [subprocess.Popen([sys.executable, "-c", looks, str(path)], env=environment()) for _ in range(2)]
    try:
        for _ in range(2000):
            os.close(file_lock.hold(path))
    finally:
        for other in others:
            other.kill()
            other.wait()
    held = file_lock.hold(path)
    assert file_lock.is_held(path)
    with pytest.raises(CacheLockedError, match="is being written by"):
        file_lock.hold(path)
    os.close(held)


def test_a_clean_end_leaves_no_holder(tmp_path, caplog):
    for _ in range(2):
        with folder_lock(tmp_path, "TrainBag", print):
            pass
    assert caplog.text == ""
    assert not (tmp_path / LOCK_NAME).read_bytes().strip(b"\0")


def test_a_lock_file_with_nonsense_inside_is_no_obstacle(tmp_path):
    (tmp_path / LOCK_NAME).write_bytes(b"\xff[1, 2]" * 300)
    with folder_lock(tmp_path, "TrainBag", print):
        assert b"TrainBag" in (tmp_path / LOCK_NAME).read_bytes()


def test_what_another_run_replaced_while_one_waited_is_not_worked_on(tmp_path, monkeypatch, capfd):
    project = small_project(tmp_path)
    real = stage.folder_lock

    @contextlib.contextmanager
    def after_waiting(folder, stage, notice):
        if stage == "WriteSubmission":
            (path,) = folder.glob("ensembles/*/ensemble.json")
            path.write_text(path.read_text().replace('"key": "', '"key": "0', 1))
        with real(folder, stage, notice):
            yield

    monkeypatch.setattr(stage, "folder_lock", after_waiting)
    project.run()
    assert not project.succeeded
    assert "the results of BuildEnsemble changed during this run" in capfd.readouterr().err
    assert not (project.artifacts / "submission.csv").exists()
    monkeypatch.undo()
    assert project.run() == ["BuildEnsemble", "WriteSubmission"]
    assert project.succeeded
