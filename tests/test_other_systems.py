"""What macOS lacks or has otherwise. No Mac tests featcache: what its Python lacks is taken away here, and the rest goes on on Linux."""

import errno
import fcntl
import os
import resource
import types

import kills
import numpy as np
import pytest
import runs
from cache_files import make_header, make_rows

from featcache.cache.writer import CacheWriter
from featcache.core import scratch_arrays, system
from featcache.core.disk import Disk, disk
from featcache.errors import StorageError


@pytest.fixture
def lacking(monkeypatch):
    """What `os` has on Linux alone is gone."""
    for name in runs.LINUX_ALONE:
        monkeypatch.delattr(os, name, raising=False)


@pytest.fixture(scope="module")
def whole(numpy_backbone, tmp_path_factory):
    return kills.undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_main_job_runs_without_what_linux_alone_has(whole, tmp_path, workers):
    project = whole.fresh(tmp_path)
    code, said = runs.finish(runs.start(runs.command(project, workers), "without_linux", **runs.SHORT_BLOCKS))
    assert code == 0, said
    assert kills.differing(project, whole, missing=True) == []


@pytest.mark.usefixtures("lacking")
def test_all_cores_count_where_nobody_says_which_are_ours():
    assert system.core_numbers() == list(range(os.cpu_count()))


def test_cores_that_this_process_may_not_use_do_not_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 3})
    assert system.core_numbers() == [3, 7]


def test_memory_is_told_in_bytes_everywhere(monkeypatch):
    monkeypatch.setattr(resource, "getrusage", lambda _: types.SimpleNamespace(ru_maxrss=5000))
    assert system.peak_bytes() == 5000 * 1024
    monkeypatch.setattr(system.sys, "platform", "darwin")
    assert system.peak_bytes() == 5000


@pytest.mark.usefixtures("lacking")
def test_a_full_disk_is_known_before_the_work_where_nothing_can_be_reserved(tmp_path, monkeypatch):
    little = types.SimpleNamespace(f_bavail=1, f_frsize=4096)
    monkeypatch.setattr(os, "fstatvfs", lambda _: little)
    with (
        pytest.raises(StorageError, match=r"needs 0.1 MB, [\d,.]+ MB are free; make room"),
        CacheWriter(tmp_path / "c.h5", make_header(make_rows(9))),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("lacking")
def test_what_a_file_has_already_needs_no_room(tmp_path, monkeypatch):
    with (tmp_path / "a").open("w+b") as stream:
        stream.write(bytes(1 << 20))
        stream.flush()
        os.fsync(stream.fileno())
        monkeypatch.setattr(os, "fstatvfs", lambda _: types.SimpleNamespace(f_bavail=1, f_frsize=4096))
        disk.allocate(stream.fileno(), 1 << 20)
        with pytest.raises(OSError, match="No space left") as caught:
            disk.allocate(stream.fileno(), 2 << 20)
        assert caught.value.errno == errno.ENOSPC


@pytest.mark.usefixtures("lacking")
def test_a_scratch_file_is_written_where_it_cannot_be_reserved(tmp_path):
    array = scratch_arrays.allocate((3, 700_000), np.int8, tmp_path, 0)
    assert (array.shape, array.any()) == ((3, 700_000), False)


def test_bytes_leave_the_memory_of_the_disk_itself(monkeypatch):
    """F_FULLFSYNC: on macOS, fsync alone hands them to the disk, whose own memory a power loss empties."""
    asked = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda descriptor, what: asked.append((descriptor, what)))
    monkeypatch.setattr(os, "fsync", lambda descriptor: asked.append((descriptor, "fsync")))
    Disk().fsync(4711)
    assert asked == [(4711, 51)]


def test_where_a_file_system_does_not_know_that_fsync_has_to_do(monkeypatch):
    asked = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "not here")))
    monkeypatch.setattr(os, "fsync", asked.append)
    Disk().fsync(4711)
    assert asked == [4711]
