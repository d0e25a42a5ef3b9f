"""Rows wait in memory until their block is whole: what that changes, and what it must not."""

import errno
import os
import random
import sys
import threading

import numpy as np
import pytest
from cache_files import TAPS, feature_bytes, features_of, make_header, make_rows, write_cache, write_rows

import featcache
from featcache.cache import writer as writer_module
from featcache.cache.encoding import StoredRows
from featcache.cache.write_buffer import WriteBuffer
from featcache.cache.writer import CacheWriter
from featcache.core.disk import disk
from featcache.errors import CacheError, StorageError

ROWS = make_rows(23)  # six blocks of 4, the last one short
ROW_BYTES = sum(tap.row_bytes for tap in TAPS)


@pytest.fixture
def writes(monkeypatch):
    """(offset, bytes, number of buffers) of every write of rows."""
    noted, real = [], disk.pwritev

    def pwritev(descriptor, contents, offset):
        noted.append((offset, sum(map(len, contents)), len(contents)))
        real(descriptor, contents, offset)

    monkeypatch.setattr(disk, "pwritev", pwritev)
    return noted


def piece(*rows):
    positions = np.array(rows, np.int64)
    status = np.ones(len(rows), np.uint8)
    return StoredRows(positions, {"a": positions[:, np.newaxis].astype(np.float16)}, status).by_block(4)


def rows_of(pieces):
    return [p.rows.tolist() for p in pieces]


@pytest.mark.parametrize("order", [range(4, 8), (6, 4, 7, 5)])
def test_a_block_goes_out_in_one_write_a_dataset_once_it_is_whole(tmp_path, writes, order):
    with CacheWriter(tmp_path / "c.h5", make_header(ROWS)) as writer:
        for row in tuple(order)[:3]:
            write_rows(writer, ROWS, [row])
        assert writes == []
        write_rows(writer, ROWS, [tuple(order)[3]])
        places = writer._structure.places
        expected = [(places[tap.name].offset + 4 * tap.row_bytes, 4 * tap.row_bytes, 4) for tap in TAPS]
        assert writes == [*expected, (places["status"].offset + 4, 4, 4)]


@pytest.mark.parametrize("most", [0, ROW_BYTES, 5 * ROW_BYTES, 10**9])
def test_the_file_is_the_same_however_much_is_held(tmp_path, monkeypatch, writes, most):
    whole = write_cache(tmp_path / "whole.h5", ROWS, rejected=[2, 9])
    monkeypatch.setattr(writer_module, "_HELD_BYTES", most)
    order = np.random.default_rng(0).permutation(23)
    writes.clear()
    with CacheWriter(tmp_path / "c.h5", make_header(ROWS)) as writer:
        for start in range(0, 23, 3):
            write_rows(writer, ROWS, order[start : start + 3], rejected=[2, 9])
        writer.publish({})
    assert sum(nbytes for _, nbytes, _ in writes) == 23 * (ROW_BYTES + 1), "every row once"
    assert len(writes) >= 6 * 3
    found, expected = featcache.open(tmp_path / "c.h5"), featcache.open(whole)
    assert feature_bytes(found) == feature_bytes(expected)
    assert found.run["rows"] == expected.run["rows"]


def test_no_more_is_held_than_allowed():
    missing = np.full(1000, 4)
    held = WriteBuffer(4, missing, most=100)  # a row has two bytes
    written, most = 0, 0
    for row in np.random.default_rng(0).permutation(4000).tolist():
        written += sum(map(len, rows_of(held.add(piece(row)))))
        most = max(most, held._bytes)
        assert held._bytes == 2 * sum(len(p.rows) for pieces in held._pieces.values() for p in pieces)
    assert most == 100
    assert written == 4000
    assert not held._pieces
    assert (missing == 4).all(), "the caller's own"


def test_rows_of_several_blocks_in_one_call_are_split():
    held = WriteBuffer(4, np.array([4, 4, 4]), most=100)
    assert held.add(piece(1, 0, 3, 5)) == []
    assert rows_of(held.add(piece(7, 2, 6, 9, 4))) == [[1, 0, 3], [2], [5], [4, 6, 7]]
    assert rows_of(held.add(piece(8, 11, 10))) == [[9], [8, 11, 10]]
    assert held.add(piece()) == []


def split(first, stop):
    """Rows from `first` on by block, and each block's features where they are the same memory."""
    features = np.zeros((stop - first, 1), np.float16)
    parts = StoredRows(np.arange(first, stop), {"a": features}, np.ones(stop - first, np.uint8)).by_block(4)
    shared = [block for block, part in parts.items() if np.shares_memory(part.stored["a"], features)]
    return {block: part.rows.tolist() for block, part in parts.items()}, shared


def test_whole_blocks_and_batches_within_one_are_not_copied():
    assert split(2, 10) == ({0: [2, 3], 1: [4, 5, 6, 7], 2: [8, 9]}, [1])
    assert split(4, 12) == ({1: [4, 5, 6, 7], 2: [8, 9, 10, 11]}, [1, 2])
    assert split(5, 7) == ({1: [5, 6]}, [1])


def test_a_row_that_waits_keeps_no_others_in_memory():
    """Batches of a block and a row, as where known rows are copied between new ones: each leaves one row to wait."""
    held = WriteBuffer(4, np.full(1000, 4), most=10**6)
    for block in range(0, 1000, 2):
        held.add(piece(*range(4 * block, 4 * block + 5)))
    waiting = [array for pieces in held._pieces.values() for piece in pieces for array in piece.stored.values()]
    assert len(waiting) == 500
    assert sum(array.nbytes if array.base is None else array.base.nbytes for array in waiting) == held._bytes


def test_rows_and_status_that_wait_are_not_the_callers(tmp_path):
    rows, status, features = np.array([4, 5, 6]), np.ones(3, np.uint8), features_of(ROWS, [4, 5, 6])
    with CacheWriter(tmp_path / "c.h5", make_header(ROWS)) as writer:
        writer.write(rows, features, status)
        rows[:], status[:] = 0, 2
        write_rows(writer, ROWS, [7, *range(4), *range(8, 23)])
        writer.publish({})
    whole = write_cache(tmp_path / "whole.h5", ROWS)
    assert feature_bytes(featcache.open(tmp_path / "c.h5")) == feature_bytes(featcache.open(whole))


@pytest.fixture
def hasty():
    """The interpreter goes from thread to thread as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("seed", range(30))
def test_many_threads_and_a_failing_disk_leave_the_same_file(tmp_path, monkeypatch, seed):
    rows, real, draw = make_rows(300), disk.pwritev, random.Random(seed)
    monkeypatch.setattr(writer_module, "_HELD_BYTES", draw.choice([0, ROW_BYTES, 10 * ROW_BYTES, 10**9]))
    whole, features = write_cache(tmp_path / "whole.h5", rows, batch=50), features_of(rows, range(300))
    order, wrong = draw.sample(range(300), 300), []

    def flaky(*arguments):
        if seed % 2 and draw.random() < 0.03:
            raise OSError(errno.EIO, "bad disk")
        real(*arguments)

    def write(writer, numbers):
        for start in range(0, len(numbers), 3):
            part = np.array(numbers[start : start + 3])
            try:
                writer.write(
                    part, {name: values[part] for name, values in features.items()}, np.ones(len(part), np.uint8)
                )
            except StorageError:
                continue
            except BaseException as error:  # noqa: BLE001 - what a thread raises is told below
                wrong.append(error)

    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        monkeypatch.setattr(disk, "pwritev", flaky)
        threads = [threading.Thread(target=write, args=(writer, order[i::6])) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        monkeypatch.setattr(disk, "pwritev", real)
        write(writer, np.flatnonzero(~writer._claimed).tolist())
        writer.publish({})
    assert wrong == []
    assert feature_bytes(featcache.open(tmp_path / "c.h5")) == feature_bytes(featcache.open(whole))


def test_what_the_disk_refused_counts_as_never_written_and_may_come_again(tmp_path, monkeypatch):
    with CacheWriter(tmp_path / "c.h5", make_header(ROWS)) as writer:
        write_rows(writer, ROWS, [0, 1, 2, 5])
        with monkeypatch.context() as patch:
            patch.setattr(disk, "pwritev", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
            with pytest.raises(StorageError, match="input/output error"):
                write_rows(writer, ROWS, [3, 4])
        with pytest.raises(CacheError, match=r"21 of 23 rows are missing, the first is id='ünï/0\.jpg'"):
            writer.publish({})  # 5 and 4 wait still: their block isn't whole
        with pytest.raises(ValueError, match="write every row once"):
            write_rows(writer, ROWS, [4])
        write_rows(writer, ROWS, [3, 2, 1, 0])
        write_rows(writer, ROWS, range(6, 23))
        writer.publish({})
    whole = write_cache(tmp_path / "whole.h5", ROWS)
    assert feature_bytes(featcache.open(tmp_path / "c.h5")) == feature_bytes(featcache.open(whole))


def test_a_shared_file_holds_nothing_back(tmp_path, writes):
    """Workers read a whole block back: what the conductor put there must be in the file."""
    with CacheWriter(tmp_path / "c.h5", make_header(ROWS), shared=True) as writer:
        write_rows(writer, ROWS, [5])
        assert len(writes) == len(TAPS) + 1


def test_thousands_of_buffers_and_short_writes_arrive_in_order(tmp_path, monkeypatch):
    real, calls = os.pwritev, []

    def short(descriptor, buffers, offset):
        calls.append(len(buffers))
        assert len(buffers) <= 1024, "more than the system takes"
        first = [bytes(buffer) for buffer in buffers[:700]]
        first[-1] = first[-1][:2] or first[-1]
        return real(descriptor, first, offset)

    monkeypatch.setattr(os, "pwritev", short)
    contents = [np.frombuffer(bytes([i % 251]) * (i % 5), np.uint8).data for i in range(3000)]
    path = tmp_path / "a"
    with path.open("wb") as stream:
        disk.pwritev(stream.fileno(), contents, 3)
    assert path.read_bytes() == bytes(3) + b"".join(contents)
    assert len(calls) >= 5
