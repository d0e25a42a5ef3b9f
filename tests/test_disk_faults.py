"""A disk that is full, read-only, forbidden or loses files while Luigi runs: one line, an exit status, and the next run goes on."""

import contextlib
import os
import shutil
import subprocess
import sys

import kills
import pytest
import runs


@pytest.fixture(scope="module")
def whole(numpy_backbone, tmp_path_factory):
    return kills.undisturbed(tmp_path_factory.mktemp("undisturbed"))


def mount(*words):
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@contextlib.contextmanager
def small_disk(folder, options):
    """A file system of its own at `folder`."""
    folder.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", options, "featcache-test", folder)
    try:
        yield folder
    finally:
        while os.path.ismount(folder):
            subprocess.run(["umount", "-l", str(folder)], check=True)


def run(project, module="pipeline", **more):
    return runs.finish(runs.start(runs.command(project), module, **runs.SHORT_BLOCKS, **more))


def one_line(said, causes=1):
    """The only line that says what went wrong (one for each cause); no traceback anywhere."""
    assert "Traceback" not in said, said
    assert "Logging error" not in said, said
    lines = [line for line in said.splitlines() if line.startswith("featcache: ")]
    assert 1 <= len(lines) <= causes, said
    return lines[0]


def extracted(said):
    """The splits whose rows were computed, not only gone on with or found complete."""
    return [
        line.split()[1].rstrip(":")
        for line in said.splitlines()
        if line.startswith("ExtractSplit") and " computed" in line
    ]


def check_the_next_run(project, whole):
    kills.check_leftovers(project, whole)
    return kills.run_to_the_end(project, whole, workers=1)


@pytest.mark.parametrize("kilobytes", [4, 128, 280, 400])
def test_a_full_disk(tmp_path, whole, kilobytes):
    project = whole.fresh(tmp_path)
    with small_disk(tmp_path / "artifacts", f"size={kilobytes}k") as disk:
        code, said = run(project)
        assert code not in (0, None)
        line = one_line(said, causes=2)  # each bag says where it could not be written
        assert "no space left on the disk" in line or "MB are free" in line
        kept = {path.name.partition("-")[0] for path in project.artifacts.rglob("*.h5") if "partial" not in path.name}
        mount("-o", "remount,size=8m", disk)
        assert set(extracted(check_the_next_run(project, whole))) == {"train", "test"} - kept


def test_a_disk_that_fills_up_while_a_cache_is_written_keeps_the_space_it_reserved(tmp_path, whole):
    project = whole.fresh(tmp_path)
    with small_disk(tmp_path / "artifacts", "size=4m"):
        fill = f"dd if=/dev/zero of={tmp_path}/artifacts/filler bs=4k 2>/dev/null; true"
        code, said = run(project, "kill_switch", KILL_AT="block:1", FAULT_DO=fill)
        assert code not in (0, None)
        assert "no space left on the disk" in one_line(said) or "MB are free" in one_line(said)
        assert list(project.artifacts.glob("features/train-*-????????.h5")), "its space was reserved before the work"
        (tmp_path / "artifacts/filler").unlink()
        assert extracted(check_the_next_run(project, whole)) == ["test"]


@pytest.mark.parametrize("moment", ["after:manifest.json", "block:2", "after:train-*-????????.h5"])
def test_the_features_folder_becomes_read_only(tmp_path, whole, moment):
    project = whole.fresh(tmp_path)
    with small_disk(project.artifacts / "features", "size=8m") as disk:
        freeze = f"mount --bind {disk} {disk} && mount -o remount,bind,ro {disk}"
        code, said = run(project, "kill_switch", KILL_AT=moment, FAULT_DO=freeze)
        assert code not in (0, None), said
        assert "the file system is read-only" in one_line(said, causes=2)  # each split has a file of its own
        subprocess.run(["umount", "-l", str(disk)], check=True)
        check_the_next_run(project, whole)


def test_artifacts_on_a_read_only_disk(tmp_path, whole):
    project = whole.fresh(tmp_path)
    with small_disk(tmp_path / "artifacts", "size=8m") as disk:
        mount("-o", "remount,ro", disk)
        code, said = run(project)
        assert code not in (0, None)
        assert "read-only file system" in one_line(said).lower()
        mount("-o", "remount,rw", disk)
        check_the_next_run(project, whole)


def setpriv(*words):
    """A prefix that takes root's powers away; the test is skipped where it can't."""
    prefix = ["setpriv", *words]
    if os.getuid() or not shutil.which("setpriv") or subprocess.run([*prefix, sys.executable, "-c", ""]).returncode:
        pytest.skip("only root with setpriv can become someone else")
    return prefix


def test_permission_is_lost_and_given_back(tmp_path, whole):
    project = whole.fresh(tmp_path)
    weak = setpriv("--bounding-set=-dac_override,-dac_read_search,-fowner")
    take = f"chmod 555 {project.artifacts}/features"
    words = runs.command(project)
    lost = runs.start(words, "kill_switch", weak, KILL_AT="block:2", FAULT_DO=take, **runs.SHORT_BLOCKS)
    code, said = runs.finish(lost)
    assert code not in (0, None), said
    assert "permission denied" in one_line(said, causes=2)
    (project.artifacts / "features").chmod(0o755)
    code, said = runs.finish(runs.start(words, "pipeline", weak, **runs.SHORT_BLOCKS))
    assert code == 0, said
    assert " resumed" in said
    assert kills.differing(project, whole, missing=True) == []


def test_a_quota_is_used_up(tmp_path, whole):
    project = whole.fresh(tmp_path)
    # someone else who may read everything, as the interpreter may lie where only root comes
    someone = setpriv("--reuid=65534", "--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    with small_disk(tmp_path / "artifacts", "size=8m,usrquota,usrquota_block_hardlimit=280k,mode=777"):
        home = {"HOME": str(tmp_path / "artifacts")}
        limited = runs.start(runs.command(project), "pipeline", someone, **runs.SHORT_BLOCKS, **home)
        code, said = runs.finish(limited)
        assert code not in (0, None), said
        line = one_line(said, causes=2)
        assert "the disk quota is used up" in line or "MB are free" in line
        check_the_next_run(project, whole)  # root has none


@pytest.mark.parametrize(
    ("moment", "vanishing"),
    [
        ("after:manifest.json", "photos/train/disc/3.png"),
        ("after:manifest.json", "manifest.arrow"),
        ("after:features.json", "features/train-*.h5"),
        ("after:block1_pool_avg-fast-*", "heads/*-fast-*/bag.npz"),
        ("after:block1_pool_avg-fast-*", "heads"),
        ("after:ensemble.json", "ensembles/????????/ensemble.json"),
        ("after:test-????????", "predictions/test-????????/probabilities.npy"),
    ],
)
def test_a_file_vanishes_while_luigi_runs(tmp_path, whole, moment, vanishing):
    project = whole.fresh(tmp_path)
    shutil.copytree(whole.folder / "photos", tmp_path / "photos")
    project.set("Dataset", path=str(tmp_path / "photos"))
    where = tmp_path if vanishing.startswith("photos") else project.artifacts
    code, said = run(project, "kill_switch", KILL_AT=moment, FAULT_DO=f"mv {where}/{vanishing} {tmp_path}/gone")
    if code:
        assert "again" in one_line(said)
    if vanishing.startswith("photos"):
        (tmp_path / "gone").rename(tmp_path / vanishing)
    check_the_next_run(project, whole)


def test_files_may_not_grow(tmp_path, whole):
    """RLIMIT_FSIZE, as batch systems set it."""
    project = whole.fresh(tmp_path)
    limited = ["bash", "-c", 'ulimit -f 60; exec "$@"', "limited"]
    code, said = runs.finish(runs.start(runs.command(project), "pipeline", limited, **runs.SHORT_BLOCKS))
    assert code not in (0, None), said
    assert "the file would exceed the allowed file size" in one_line(said, causes=2)
    assert extracted(check_the_next_run(project, whole)) == ["train", "test"]
