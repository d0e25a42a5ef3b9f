import contextlib
import errno
import itertools
import logging
import os
import resource
import signal
import threading

import numpy as np
import pytest
from cache_files import TAPS, feature_bytes, features_of, make_header, make_rows, write_cache, write_rows

import featcache
from featcache.cache import block_checksums
from featcache.cache.encoding import stored_features
from featcache.cache.file_lock import hold, is_held
from featcache.cache.layout import CHECKSUM_BYTES, TapLayout, default_block_rows
from featcache.cache.writer import CacheWriter
from featcache.core import folder_lock
from featcache.core.disk import disk
from featcache.core.float16 import as_float32
from featcache.errors import CacheError, CacheLockedError, FeatureValueError, StorageError

AVG = TAPS[1:]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def place_of(path, name):
    return featcache.open(path, partial=True)._structure.places[name]


def flip_byte(path, offset):
    with open(path, "r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 0xFF]))


def held_up(monkeypatch, owner, name):
    """Make a call wait; return the event that tells that it has begun, and the one that lets it go on."""
    begun, go, real = threading.Event(), threading.Event(), getattr(owner, name)

    def slow(*arguments):
        begun.set()
        go.wait(60)
        return real(*arguments)

    monkeypatch.setattr(owner, name, slow)
    return begun, go


def test_rows_in_any_order_from_several_threads(tmp_path):
    rows = make_rows(101)
    order = np.random.default_rng(0).permutation(101)
    with CacheWriter(tmp_path / "c.h5", make_header(rows, block_rows=7)) as writer:
        threads = [
            threading.Thread(target=lambda part: write_rows(writer, rows, part), args=(order[i::5],)) for i in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.publish({})
    reader = featcache.open(tmp_path / "c.h5")
    for name, expected in features_of(rows, range(101)).items():
        np.testing.assert_array_equal(reader[name], expected)


def test_leaving_without_publish_keeps_the_partial_and_the_next_writer_goes_on(tmp_path):
    rows = make_rows(10)
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        assert not writer.durable.any()
        write_rows(writer, rows, range(9))
        name = writer.partial.name
    assert names_in(tmp_path) == [name]
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        assert writer.durable.tolist() == [True] * 8 + [False] * 2
        write_rows(writer, rows, [9, 8])
        writer.publish({})
    assert names_in(tmp_path) == ["c.h5"]
    whole = write_cache(tmp_path / "whole.h5", rows)
    assert feature_bytes(featcache.open(tmp_path / "c.h5")) == feature_bytes(featcache.open(whole))


def test_an_exception_inside_keeps_what_is_finished(tmp_path):
    rows = make_rows(10)
    with pytest.raises(RuntimeError, match="out of luck"), CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:  # noqa: PT012
        write_rows(writer, rows, range(5))
        raise RuntimeError("out of luck")
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        assert writer.durable.sum() == 4


def test_fresh_drops_what_an_earlier_try_left(tmp_path):
    rows = make_rows(10)
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        write_rows(writer, rows, range(8))
    with CacheWriter(tmp_path / "c.h5", make_header(rows), fresh=True) as writer:
        assert not writer.durable.any()


def test_the_stored_block_length_is_kept(tmp_path):
    rows = make_rows(10)
    with CacheWriter(tmp_path / "c.h5", make_header(rows, block_rows=4)) as writer:
        write_rows(writer, rows, range(4))
    with CacheWriter(tmp_path / "c.h5", make_header(rows, block_rows=5)) as writer:
        assert writer.block_rows == 4
        assert writer.durable.sum() == 4


def test_a_damaged_block_is_computed_again(tmp_path, caplog):
    rows = make_rows(12)
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        write_rows(writer, rows, range(12))
    place = place_of(writer.partial, "block5_pool")
    flip_byte(writer.partial, place.offset + 5 * TAPS[0].row_bytes)
    with caplog.at_level(logging.WARNING), CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        assert np.flatnonzero(~writer.durable).tolist() == [4, 5, 6, 7]
        assert "block 1 does not match its checksum" in caplog.text
        with open(writer.partial, "rb") as stream:
            journal = os.pread(stream.fileno(), 96, place_of(writer.partial, "journal/checksum").offset)
        assert journal[16:32] == bytes(16)


@pytest.mark.parametrize("what", ["cut", "ids", "garbage", "empty"])
def test_a_damaged_partial_is_never_trusted(tmp_path, what):
    rows = make_rows(12)
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        write_rows(writer, rows, range(12))
    if what == "cut":
        os.truncate(writer.partial, writer.partial.stat().st_size // 2)
    elif what == "ids":
        flip_byte(writer.partial, place_of(writer.partial, "id").offset + 3)
    else:
        writer.partial.write_bytes(b"\x89HDF\r\n\x1a\n" * 300 if what == "garbage" else b"")
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        assert not writer.durable.any()
        write_rows(writer, rows, range(12))
        writer.publish({})
    assert names_in(tmp_path) == ["c.h5"]


def test_publish_removes_superseded_partials_that_nobody_holds(tmp_path):
    old, other, now = make_rows(5), make_rows(6), make_rows(7)
    with CacheWriter(tmp_path / "c.h5", make_header(old)) as writer:
        gone = writer.partial
    with (
        CacheWriter(tmp_path / "c.h5", make_header(other)) as holder,
        CacheWriter(tmp_path / "d.h5", make_header(old)) as foreign,
    ):
        write_cache(tmp_path / "c.h5", now)
        assert not gone.exists()
        assert holder.partial.exists()
        assert foreign.partial.exists()


def test_a_published_file_is_replaced_and_never_changed(tmp_path):
    path = write_cache(tmp_path / "c.h5", make_rows(5))
    reader, inode = featcache.open(path), path.stat().st_ino
    before = feature_bytes(reader)
    write_cache(path, make_rows(5, prefix="other/"))
    assert path.stat().st_ino != inode
    assert feature_bytes(reader) == before
    assert reader.ids[0] == "ünï/0.jpg"


def test_publish_refuses_gaps_and_keeps_the_partial(tmp_path):
    rows = make_rows(10)
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        write_rows(writer, rows, [0, 1, 2, 4, 5])
        with pytest.raises(CacheError, match=r"5 of 10 rows are missing, the first is id='ünï/3\.jpg'"):
            writer.publish({})
        with pytest.raises(ValueError, match="at most 65536 bytes"):
            write_rows(writer, rows, [3, 6, 7, 8, 9]) or writer.publish({"note": "x" * 70_000})
        assert not (tmp_path / "c.h5").exists()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_float16_has_no_number_for_name_their_row_and_tap(tmp_path, dtype, value):
    rows = make_rows(4)
    features = {name: array.astype(dtype) for name, array in features_of(rows, range(4)).items()}
    features["block5_pool"][2, 1, 0, 3] = value
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        with pytest.raises(FeatureValueError, match=rf"tap block5_pool: {value} for id='ünï/2.jpg' is outside"):
            writer.write(np.arange(4), features, np.ones(4, np.uint8))
        write_rows(writer, rows, range(4))  # the rows are free again
        writer.publish({})


def test_whatever_stands_beside_it_a_number_that_float16_lacks_is_seen():
    numbers = np.array([0.0, -0.0, 1, -1, 65504, -65504, 6e-8, np.inf, -np.inf, np.nan, -np.nan], np.float16)
    for pair in itertools.product(numbers, repeat=2):
        features = np.array([[*pair, 0, 0, 0]], np.float16)
        given = AVG[0], features, np.array([True]), np.array([0]), ["a.jpg"]
        if np.isfinite(features).all():
            assert stored_features(*given).tobytes() == features.tobytes()
        else:
            with pytest.raises(FeatureValueError, match=r"(nan|-?inf) for id='a\.jpg' is outside"):
                stored_features(*given)


def test_values_just_beyond_float16_are_refused_before_they_are_rounded(tmp_path):
    rows = make_rows(2)
    with CacheWriter(tmp_path / "c.h5", make_header(rows, AVG)) as writer:
        for value in (65505.0, -65510.0, 1e9):
            with pytest.raises(FeatureValueError, match="-65504 to 65504"):
                writer.write(np.array([0]), {AVG[0].name: np.full((1, 5), value, np.float32)}, np.ones(1, np.uint8))
        writer.write(np.array([0]), {AVG[0].name: np.full((1, 5), -65504, np.float32)}, np.ones(1, np.uint8))
        writer.write(np.array([1]), {AVG[0].name: np.full((1, 5), np.nan, np.float32)}, np.full(1, 2, np.uint8))
        writer.publish({})
    reader = featcache.open(tmp_path / "c.h5")
    assert (reader[AVG[0].name][0] == -65504).all()
    assert (reader[AVG[0].name][1] == 0).all(), "rejected rows are zeros whatever came"
    assert reader.statistics(AVG[0].name) == {
        "rows": 1,
        "zeros": 0.0,
        "min": -65504.0,
        "max": -65504.0,
        "mean": -65504.0,
    }


@pytest.mark.parametrize(
    ("rows", "features", "status", "message"),
    [
        ([0, 0], {}, [1, 1], "write every row once"),
        ([1], {}, [1], "write every row once"),
        ([4], {}, [1], "rows 4 to 4 are not all from 0 to 3"),
        ([0], {}, [0], r"status=\[0\] is not only 1"),
        ([0], {}, [1, 1], "one status each"),
        ([0.0], {}, [1], "not integer rows"),
        ([0], {"x": np.zeros((1, 5))}, [1], "features are of the taps"),
        ([0], {"block5_pool_avg": np.zeros((1, 4), np.float16)}, [1], r"float16 or float32 \(1, 5\)"),
        ([0], {"block5_pool_avg": np.zeros((1, 5), np.int8)}, [1], "is int8"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, rows, features, status, message):
    with CacheWriter(tmp_path / "c.h5", make_header(make_rows(4), AVG)) as writer:
        writer.write(np.array([1]), {"block5_pool_avg": np.zeros((1, 5), np.float16)}, np.ones(1, np.uint8))
        features = features or {"block5_pool_avg": np.zeros((len(rows), 5), np.float16)}
        with pytest.raises(ValueError, match=message):
            writer.write(np.array(rows), features, np.array(status))


def test_a_writer_is_closed_after_publish_and_before_with(tmp_path):
    rows = make_rows(0)
    writer = CacheWriter(tmp_path / "c.h5", make_header(rows))
    with pytest.raises(ValueError, match="write inside its with block"):
        writer.publish({})
    with writer:
        writer.publish({})
        with pytest.raises(ValueError, match="before it is published"):
            writer.publish({})


def test_two_writers_in_one_process(tmp_path):
    header = make_header(make_rows(4))
    with CacheWriter(tmp_path / "c.h5", header) as one:
        assert is_held(one.partial)
        with (
            pytest.raises(CacheLockedError, match=f"process {os.getpid()} on "),
            CacheWriter(tmp_path / "c.h5", header),
        ):
            pass
    assert not is_held(one.partial)
    assert not is_held(tmp_path / "none.partial.h5")


@pytest.mark.parametrize("call", ["pwritev", "fsync"])
def test_who_is_still_at_work_when_the_file_is_let_go_writes_into_no_other(tmp_path, monkeypatch, call):
    """A second Ctrl-C ends the waiting for threads that write rows, or journal them."""
    rows = make_rows(4)

    def interrupted():
        raise KeyboardInterrupt

    def write():
        with contextlib.suppress(RuntimeError):  # the journal is closed by then
            write_rows(writer, rows, range(4))

    with contextlib.ExitStack() as files:
        with pytest.raises(KeyboardInterrupt), CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:  # noqa: PT012
            number, journal = writer._descriptor, writer._journal._thread
            at_it, go = held_up(monkeypatch, disk, call)
            thread = threading.Thread(target=write)
            thread.start()
            assert at_it.wait(60)
            monkeypatch.setattr(journal, "join", interrupted)
        others = [files.enter_context(open(tmp_path / f"other{i}", "w+b")) for i in range(9)]
        assert number in [other.fileno() for other in others]
        go.set()
        thread.join()
        threading.Thread.join(journal)
    assert [(tmp_path / f"other{i}").read_bytes() for i in range(9)] == [b""] * 9
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:  # the lock is gone, too
        # rows that come after the end may still come before the journal's last look
        assert writer.durable.all() or call == "pwritev"


def test_a_block_that_comes_during_a_sync_waits_for_the_next(tmp_path, monkeypatch):
    rows, said, real = make_rows(8), [], {}

    def fsync(descriptor):
        said.append("sync")
        real["fsync"](descriptor)
        said.append("synced")

    def pwrite(descriptor, content, offset):
        said.append((offset - first) // CHECKSUM_BYTES)
        real["pwrite"](descriptor, content, offset)

    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        first = writer._structure.places["journal/checksum"].offset
        at_it, go = held_up(monkeypatch, disk, "fsync")
        for call in (fsync, pwrite):
            real[call.__name__] = getattr(disk, call.__name__)
            monkeypatch.setattr(disk, call.__name__, call)
        write_rows(writer, rows, range(4))
        assert at_it.wait(60)
        write_rows(writer, rows, range(4, 8))
        go.set()
        writer._journal.close()
        assert said == ["sync", "synced", 0, "sync", "synced", 1]


def test_publish_waits_for_a_block_that_is_being_handed_over(tmp_path, monkeypatch):
    rows = make_rows(8)
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        write_rows(writer, rows, range(4))
        at_it, go = held_up(monkeypatch, writer._journal, "submit")
        thread = threading.Thread(target=write_rows, args=(writer, rows, range(4, 8)))
        thread.start()
        assert at_it.wait(60)
        threading.Timer(0.3, go.set).start()
        writer.publish({})
        thread.join()
    assert featcache.open(tmp_path / "c.h5").run["rows"] == {"total": 8, "ok": 8, "rejected": 0}


def test_publish_refuses_rows_that_are_being_written(tmp_path, monkeypatch):
    rows = make_rows(4)
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        at_it, go = held_up(monkeypatch, disk, "pwritev")
        thread = threading.Thread(target=write_rows, args=(writer, rows, range(4)))
        thread.start()
        assert at_it.wait(60)
        with pytest.raises(ValueError, match="still under way"):
            writer.publish({})
        go.set()
        thread.join()
        writer.publish({})


def test_a_file_is_let_go_where_its_writer_cannot_begin(tmp_path, monkeypatch):
    header = make_header(make_rows(4))
    with monkeypatch.context() as patch:
        patch.setattr("featcache.cache.writer.Journal", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError), CacheWriter(tmp_path / "c.h5", header):
            pass
    with CacheWriter(tmp_path / "c.h5", header) as writer:
        assert is_held(writer.partial)


def test_a_file_published_between_open_and_lock_is_not_taken(tmp_path, monkeypatch):
    path = tmp_path / "c.partial.h5"
    path.write_bytes(b"old")
    real, moved = folder_lock.try_lock, []

    def lock_after_rename(descriptor, where):
        if not moved:
            moved.append(path.rename(tmp_path / "c.h5"))
        return real(descriptor, where)

    monkeypatch.setattr(folder_lock, "try_lock", lock_after_rename)
    descriptor = hold(path)
    assert os.path.sameopenfile(descriptor, descriptor)
    assert os.fstat(descriptor).st_ino == path.stat().st_ino
    assert (tmp_path / "c.h5").read_bytes() == b"old"
    os.close(descriptor)


def test_a_full_disk_is_known_before_the_work(tmp_path, monkeypatch):
    def full(descriptor, size):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(disk, "allocate", full)
    with (
        pytest.raises(StorageError, match=r"needs 0.1 MB, [\d,.]+ MB are free; make room"),
        CacheWriter(tmp_path / "c.h5", make_header(make_rows(9))),
    ):
        pass
    assert names_in(tmp_path) == []


def test_a_disk_that_fails_in_the_background_is_told_at_the_next_call_and_nothing_is_lost(tmp_path, monkeypatch):
    rows, real = make_rows(12), disk.fsync
    with pytest.raises(StorageError, match="input/output error; finished work is saved"):  # noqa: PT012, SIM117
        with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
            write_rows(writer, rows, range(4))
            writer._journal.close()
            monkeypatch.setattr(disk, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
            writer._journal = type(writer._journal)(writer._descriptor, writer._structure)
            write_rows(writer, rows, range(4, 12))
            writer.publish({})
    monkeypatch.setattr(disk, "fsync", real)
    assert not (tmp_path / "c.h5").exists()
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        assert writer.durable.sum() == 4


def test_a_file_size_limit_is_one_line_and_the_next_run_goes_on(tmp_path):
    rows = make_rows(50)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(StorageError) as caught, CacheWriter(tmp_path / "c.h5", make_header(rows)):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert "\n" not in str(caught.value)
    write_cache(tmp_path / "c.h5", rows)
    assert names_in(tmp_path) == ["c.h5"]


def test_blocks_are_at_least_8_mib_and_whole_batches():
    block5 = TapLayout("block5_pool", (7, 7, 512), "k", {})
    for batch in (1, 32, 100):
        rows = default_block_rows((block5,), batch)
        assert rows % batch == 0
        assert rows * block5.row_bytes >= 8 * 2**20 > (rows - batch) * block5.row_bytes


def test_a_kill_takes_no_thousands_of_narrow_rows():
    narrow = TapLayout("block5_pool_avg", (512,), "k", {})
    assert [default_block_rows((narrow,), batch) for batch in (1, 64, 100, 2048)] == [512, 512, 600, 2048]


@pytest.mark.parametrize("negative", [0.0, 0.001, 1.0], ids=["none negative", "a few rows", "half of all numbers"])
def test_checksums_and_statistics_do_not_depend_on_how_much_is_read_at_once(tmp_path, monkeypatch, negative):
    tap, n = TapLayout("block5_pool", (1, 1, 512), "k" * 64, {}), 5000
    rng, rows = np.random.default_rng(0), make_rows(n)
    features = np.maximum(rng.standard_normal((n, *tap.shape)), 0).astype(np.float16)
    chosen = rng.random(n) < negative
    features[chosen] = rng.standard_normal((int(chosen.sum()), *tap.shape))
    status = np.where(np.arange(n) == 3000, 2, 1).astype(np.uint8)
    with CacheWriter(tmp_path / "c.h5", make_header(rows, (tap,), block_rows=4200)) as writer:
        for start in range(0, n, 700):
            part = slice(start, start + 700)
            writer.write(np.arange(n)[part], {tap.name: features[part]}, status[part])
        writer.publish({})
    counted = features[status == 1]
    exact = {"rows": n - 1, "zeros": (counted == 0).mean(), "min": counted.min(), "max": counted.max()}
    for size in (1, 1 << 14, 1 << 21):
        monkeypatch.setattr(block_checksums, "_PIECE_BYTES", size)
        reader = featcache.open(tmp_path / "c.h5")
        assert reader.durable.all()
        expected = {**exact, "mean": pytest.approx(counted.mean(dtype=np.float64), rel=1e-9)}
        assert reader.statistics(tap.name) == expected


def test_widening_is_exact_for_every_float16():
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    np.testing.assert_array_equal(as_float32(finite).view(np.uint32), finite.astype(np.float32).view(np.uint32))
