import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from featcache.core import disk
from featcache.errors import StorageError


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_success_leaves_one_file(tmp_path):
    disk.write_text(tmp_path / "a.json", "ä")
    assert (tmp_path / "a.json").read_bytes() == "ä".encode()
    assert listing(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail():
        with disk.replacing(path) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["a.json"]


def test_the_temporary_file_has_the_suffix_that_writers_look_at(tmp_path):
    with disk.replacing(tmp_path / "head.keras") as temporary:
        assert temporary.suffix == ".keras"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"")


def test_data_is_synced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: calls.append("folder" if Path(f"/proc/self/fd/{fd}").is_dir() else "file")
    )
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("rename"), replace(*names)))
    disk.write_text(tmp_path / "a", "a")
    assert calls == ["file", "rename", "folder"]


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, offset: pwrite(fd, bytes(content)[:3], offset))
    path = tmp_path / "a"
    with path.open("wb") as stream:
        disk.disk.pwrite(stream.fileno(), b"0123456789", 2)
    assert path.read_bytes() == b"\0\x000123456789"


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")],
)
def test_what_the_disk_refuses_is_one_line_with_the_path(tmp_path, number, reason):
    with pytest.raises(StorageError, match=reason) as caught, disk.storage_errors(tmp_path / "x.h5", "could not write"):
        raise OSError(number, "whatever")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "x.h5") in str(caught.value)


def test_other_system_errors_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), disk.storage_errors(tmp_path, "could not write"):
        (tmp_path / "not" / "there").read_text()


def test_a_real_size_limit_is_one_line(tmp_path):
    program = (
        "import sys, pathlib; from featcache.core import disk; from featcache.errors import StorageError\n"
        "try: disk.write_bytes(pathlib.Path(sys.argv[1]), b'x' * 100_000)\n"
        "except StorageError as error: print(error)"
    )

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [sys.executable, "-B", "-c", program, str(tmp_path / "a")], capture_output=True, text=True, preexec_fn=limit
    )
    assert "exceed the allowed file size" in done.stdout
    assert listing(tmp_path) == []


def test_allocating_reserves_the_bytes(tmp_path):
    with (tmp_path / "a").open("wb") as stream:
        disk.disk.allocate(stream.fileno(), 1 << 20)
    assert (tmp_path / "a").stat().st_size == 1 << 20
    assert (tmp_path / "a").stat().st_blocks * 512 >= 1 << 20
