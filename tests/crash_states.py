"""Records what the disk layer is asked to do, and plays back every state a power loss could have left."""

import itertools
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featcache.core.disk import disk

SUBSETS_UP_TO = 5  # pending writes; of more, only none, all, each one missing and each one alone are tried


@dataclass
class Recorder:
    """Replaces the methods of `disk`; every operation still happens, and is noted in order.

    HDF5 writes a file's beginning itself, before its first fsync: what is there at that fsync is the file's base.
    """

    events: list = field(default_factory=list)
    bases: dict = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def install(self, monkeypatch):
        real_pwrite, real_fsync = disk.pwrite, disk.fsync

        def pwrite(descriptor, content, offset):
            with self.lock:
                real_pwrite(descriptor, content, offset)
                self.events.append(("write", os.fstat(descriptor).st_ino, offset, bytes(content)))

        def pwritev(descriptor, contents, offset):
            pwrite(descriptor, b"".join(contents), offset)

        def fsync(descriptor):
            with self.lock:
                inode = os.fstat(descriptor).st_ino
                real_fsync(descriptor)
                if inode not in self.bases:
                    self.bases[inode] = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
                self.events.append(("fsync", inode))

        def replace(source, target):
            with self.lock:
                self.events.append(("rename", source.stat().st_ino, source.name, target.name))
                os.replace(source, target)
                disk.fsync_folder(target.parent)

        def fsync_folder(folder):
            with self.lock:
                self.events.append(("fsync folder",))

        for name, function in (
            ("pwrite", pwrite),
            ("pwritev", pwritev),
            ("fsync", fsync),
            ("replace", replace),
            ("fsync_folder", fsync_folder),
        ):
            monkeypatch.setattr(disk, name, function)


def states(recorder):
    """Yield {name: bytes} for each state: after every event, with any subset of what was not yet durable."""
    durable, pending = {}, {}
    names, renames = {}, []
    for event in recorder.events:
        if event[0] == "write":
            pending.setdefault(event[1], []).append(event[2:])
        elif event[0] == "fsync":
            inode = event[1]
            base = durable.get(inode, recorder.bases[inode])
            durable[inode], pending[inode] = _apply(base, pending.get(inode, [])), []
        elif event[0] == "rename":
            renames.append(event[1:])
        else:
            names, renames = _renamed(names, renames), []
        for count in range(len(renames) + 1):
            listed = _renamed(names, renames[:count])
            yield from _contents(listed, durable, pending)


def _contents(listed, durable, pending):
    choices = []
    for name, inode in listed.items():
        choices.append([(name, _apply(durable[inode], lost)) for lost in _survivors(pending.get(inode, []))])
    for files in itertools.product(*choices):
        yield dict(files)


def _survivors(writes):
    """Yield the pending writes that reached the disk; also with the last one torn in the middle."""
    indices = range(len(writes))
    if len(writes) <= SUBSETS_UP_TO:
        kept = [c for size in range(len(writes) + 1) for c in itertools.combinations(indices, size)]
    else:
        kept = [(), tuple(indices), *((i,) for i in indices), *(tuple(j for j in indices if j != i) for i in indices)]
    for chosen in kept:
        yield [writes[i] for i in chosen]
        if chosen:
            offset, content = writes[chosen[-1]]
            yield [*(writes[i] for i in chosen[:-1]), (offset, content[: len(content) // 2])]


def _apply(base, writes):
    content = bytearray(base)
    for offset, raw in writes:
        content[offset : offset + len(raw)] = raw
    return bytes(content)


def _renamed(names, renames):
    names = dict(names)
    for inode, source, target in renames:
        names.pop(source, None)
        names[target] = inode
    return names


def check_state(files, final, structure, expected):
    """Return what is wrong in one state: a promise in the file that its bytes don't keep.

    Args:
        files: name -> bytes.
        final: the finished file's name.
        structure: `Structure` of the file, for offsets and blocks.
        expected: bytes of the finished file, run and holder aside.
    """
    from featcache.cache.layout import block_range

    faults = []
    places = structure.places
    sums = places["journal/checksum"]
    for name, content in files.items():
        if name != final and not name.endswith(".partial.h5"):
            continue
        journal = np.frombuffer(content, np.uint8, sums.nbytes, sums.offset).reshape(sums.shape)
        wanted = np.frombuffer(expected, np.uint8, sums.nbytes, sums.offset).reshape(sums.shape)
        for block in range(structure.blocks):
            promised = name == final or (journal[block] == wanted[block]).all()  # a torn checksum promises nothing
            rows = block_range(block, structure.block_rows, structure.n)
            for dataset in [tap.name for tap in structure.taps] + ["status"]:
                place = places[dataset]
                width = place.nbytes // structure.n
                part = slice(place.offset + rows[0] * width, place.offset + rows[1] * width)
                if promised and content[part] != expected[part]:
                    faults.append(f"{name}: block {block} counts as durable, but {dataset} is lost")
        if name == final:
            if content[places["journal/complete"].offset] != 1:
                faults.append(f"{name}: published, but not complete")
            run = places["record/run"]
            if content[run.offset : run.offset + run.nbytes] != expected[run.offset : run.offset + run.nbytes]:
                faults.append(f"{name}: published, but its run record is lost")
    return faults


def write_file(folder: Path, files):
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
