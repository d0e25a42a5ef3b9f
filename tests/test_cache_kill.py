"""SIGKILL at every block boundary and at random moments: the next writer goes on and ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cache_files import feature_bytes, make_header, make_rows, write_cache

import featcache
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError, CacheLockedError

COUNT = 23  # 6 blocks of 4, the last one short
CHILD = Path(__file__).parent / "killed_writer.py"


def start_child(path, die_after=-1, pause=0.0):
    paths = os.pathsep.join([str(CHILD.parent), str(Path(featcache.__file__).parent.parent)])
    command = [sys.executable, str(CHILD), str(path), str(COUNT), str(die_after), str(pause)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return feature_bytes(featcache.open(write_cache(tmp_path_factory.mktemp("whole") / "c.h5", make_rows(COUNT))))


def check_leftover(folder):
    """Nothing that was killed has the final name, and nothing is in the folder but the partial file."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".tmp-"))
    assert len(names) <= 1
    assert all(name.endswith(".partial.h5") for name in names)
    for name in names:
        with pytest.raises(CacheError):
            featcache.open(folder / name)


@pytest.mark.parametrize("block", range(1, 7))
def test_killed_at_a_block_boundary(tmp_path, undisturbed, block):
    with start_child(tmp_path / "c.h5", die_after=block) as child:
        assert child.wait() == -signal.SIGKILL
    check_leftover(tmp_path)
    with CacheWriter(tmp_path / "c.h5", make_header(make_rows(COUNT))) as writer:
        assert writer.durable.sum() == min(COUNT, block * 4)
    assert feature_bytes(featcache.open(write_cache(tmp_path / "c.h5", make_rows(COUNT)))) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5"]


def test_killed_again_and_again_at_random_moments(tmp_path, undisturbed):
    moments, path, kills = random.Random(5), tmp_path / "c.h5", 0
    for _ in range(12):
        with start_child(path, pause=0.06) as child:
            child.stdout.readline() if moments.random() < 0.8 else None  # sometimes while it still starts
            time.sleep(moments.random() * 0.15)
            child.kill()
            kills += child.wait() == -signal.SIGKILL
        if path.exists():
            break
        check_leftover(tmp_path)
    assert kills >= 2
    assert feature_bytes(featcache.open(write_cache(path, make_rows(COUNT)))) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5"]


def test_a_live_writer_is_named_and_a_dead_one_does_not_block(tmp_path):
    with start_child(tmp_path / "c.h5", pause=5) as child:
        assert child.stdout.readline() == "writing\n"
        with (
            pytest.raises(
                CacheLockedError, match=rf"is being written by process {child.pid} on \S+ since 20\d\d-.*; wait"
            ),
            CacheWriter(tmp_path / "c.h5", make_header(make_rows(COUNT))),
        ):
            pass
        child.kill()
    write_cache(tmp_path / "c.h5", make_rows(COUNT))
    assert featcache.open(tmp_path / "c.h5").complete
