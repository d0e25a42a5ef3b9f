"""What a power loss could leave behind: every state is enumerated and checked, and the check is checked.

SIGKILL can't show a wrong order of fsyncs, as the page cache survives it.
"""

import numpy as np
import pytest
from cache_files import TAPS, feature_bytes, make_header, make_rows, write_cache, write_rows
from crash_states import Recorder, check_state, states, write_file

import featcache
from featcache.cache import journal as journal_module
from featcache.cache.block_checksums import block_checksum
from featcache.cache.file_parser import read_structure
from featcache.cache.layout import CHECKSUM_BYTES
from featcache.cache.writer import CacheWriter
from featcache.core.disk import disk

ROWS = make_rows(7)
TAP = TAPS[1:]


def record(folder, monkeypatch, order=(0, 1, 2, 3, 4, 5, 6)):
    folder.mkdir()
    with monkeypatch.context() as patch:
        recorder = Recorder()
        recorder.install(patch)
        with CacheWriter(folder / "c.h5", make_header(ROWS, TAP, block_rows=3)) as writer:
            for start in range(0, 7, 2):
                write_rows(writer, ROWS, list(order[start : start + 2]), TAP)
            writer.publish({"host": "lab3"})
    content = (folder / "c.h5").read_bytes()
    with open(folder / "c.h5", "rb") as stream:
        return recorder, content, read_structure(stream, folder / "c.h5")


def faults_of(recorder, content, structure):
    return {fault for files in states(recorder) for fault in check_state(files, "c.h5", structure, content)}


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5, 6), (6, 0, 3, 5, 1, 4, 2)])
def test_whatever_a_power_loss_leaves_keeps_its_promises(tmp_path, monkeypatch, order):
    recorded = record(tmp_path / "a", monkeypatch, order)
    assert faults_of(*recorded) == set()
    assert sum(1 for _ in states(recorded[0])) > 100


def test_every_state_can_be_resumed_to_the_same_bytes(tmp_path, monkeypatch):
    recorder, _, _ = record(tmp_path / "a", monkeypatch)
    reference = feature_bytes(featcache.open(tmp_path / "a" / "c.h5"))
    folder, resumed = tmp_path / "b", 0
    folder.mkdir()
    seen = set()
    for files in states(recorder):
        if frozenset(files.items()) in seen:
            continue
        seen.add(frozenset(files.items()))
        write_file(folder, files)
        if "c.h5" not in files:
            write_cache(folder / "c.h5", ROWS, TAP, block_rows=3)
            resumed += 1
        assert feature_bytes(featcache.open(folder / "c.h5")) == reference
        assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == ["c.h5"]
    assert resumed > 20


def test_a_journal_that_names_a_block_before_its_bytes_are_durable_is_caught(tmp_path, monkeypatch):
    def reversed_order(self, blocks):
        offset = self._structure.places["journal/checksum"].offset
        for block in blocks:
            checksum = block_checksum(self._descriptor, self._structure, block)
            disk.pwrite(self._descriptor, checksum, offset + block * CHECKSUM_BYTES)
        disk.fsync(self._descriptor)

    monkeypatch.setattr(journal_module.Journal, "_make_durable", reversed_order)
    faults = faults_of(*record(tmp_path / "a", monkeypatch))
    assert any("counts as durable" in fault and "partial" in fault for fault in faults)


def test_a_writer_that_publishes_before_it_syncs_is_caught(tmp_path, monkeypatch):
    real = Recorder.install

    def install_without_last_fsyncs(self, patch):
        real(self, patch)
        recorded = disk.fsync

        def fsync(descriptor):
            if len(self.bases) == 0:  # the header is synced, nothing after it
                recorded(descriptor)

        patch.setattr(disk, "fsync", fsync)

    monkeypatch.setattr(Recorder, "install", install_without_last_fsyncs)
    faults = faults_of(*record(tmp_path / "a", monkeypatch))
    assert "c.h5: published, but not complete" in faults
    assert "c.h5: published, but its run record is lost" in faults
    assert "c.h5: block 0 counts as durable, but block5_pool_avg is lost" in faults


def test_the_folder_is_synced_after_the_rename(tmp_path, monkeypatch):
    recorder, _, _ = record(tmp_path / "a", monkeypatch)
    kinds = [event[0] for event in recorder.events]
    last = max(i for i, event in enumerate(recorder.events) if event[0] == "rename")
    assert recorder.events[last][3] == "c.h5"
    assert kinds[last - 1] == "fsync"
    assert kinds[last + 1] == "fsync folder"


def test_statistics_are_the_same_whatever_the_order(tmp_path, monkeypatch):
    for name, order in (("a", range(7)), ("b", (6, 0, 3, 5, 1, 4, 2))):
        record(tmp_path / name, monkeypatch, tuple(order))
    one, two = (featcache.open(tmp_path / name / "c.h5").statistics("block5_pool_avg") for name in "ab")
    assert one == two
    values = np.asarray(featcache.open(tmp_path / "a" / "c.h5")["block5_pool_avg"], dtype=np.float64)
    assert one["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert (one["min"], one["max"], one["zeros"]) == (values.min(), values.max(), (values == 0).mean())
