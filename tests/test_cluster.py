"""Extraction on real worker processes, with a backbone of NumPy: same bytes, whoever dies."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from notices import Notices
from projects import write_photos

from featcache import stages
from featcache.cache.layout import MIRROR
from featcache.cache.reader import open_cache
from featcache.core.progress import Silent
from featcache.errors import ClusterError, SourceChangedError
from featcache.project.project import Project
from featcache.settings.parsing import parse_settings
from featcache.settings.specs import ClusterSpec
from featcache.stages.workers import client

HERE = Path(__file__).parent / "numpy_workers"
sys.path.append(str(HERE))
from numpy_backbone import BATCH, NumpyBackbone  # noqa: E402  # it lies beside the sitecustomize that is for workers alone

ROWS = 3 * 40
# rows that a death may cost: of blocks under way, two threads of two workers and one waiting for each; results that nobody
# has fetched yet are among them
LOST = 6 * BATCH


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    """Where workers are told what to do."""
    return tmp_path_factory.mktemp("control")


@pytest.fixture(scope="module")
def address(control):
    """A scheduler with two workers, each with a nanny that starts it again."""
    import dask
    from distributed import LocalCluster

    environment = {"NUMPY_WORKERS": str(control), "PYTHONPATH": str(HERE)}
    fewer = dask.config.set({"distributed.scheduler.allowed-failures": 1})  # deaths before a block is set aside
    with fewer, LocalCluster(
        n_workers=2, threads_per_worker=2, memory_limit="600MB", host="127.0.0.1", dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0",
        env=environment, preload=[str(HERE / "numpy_backbone.py")], silence_logs=50,
    ) as workers:  # fmt: skip
        yield workers.scheduler_address
        for kept in client._KEPT.values():
            kept.close()
        client._KEPT.clear()


@pytest.fixture
def alone(tmp_path, control, monkeypatch):
    """A project of 120 images in 15 blocks, listed and resolved, computed by this process."""
    monkeypatch.setenv("FEATCACHE_BLOCK_BYTES", "1")
    monkeypatch.setattr("featcache.stages.features.resolved_backbone", lambda backbone, _: NumpyBackbone(backbone))
    for path in control.iterdir():
        path.unlink()
    write_photos(tmp_path / "photos", 40, 1)
    project = make_project(tmp_path, tmp_path / "alone")
    stages.extract_split(project, "train", Silent())
    return project


def make_project(folder, artifacts, **settings):
    project = Project(
        parse_settings(
            {
                "Dataset": {"name": "photos", "source": "folder", "path": str(folder / "photos")},
                "Features": {"weights": "random", "taps": "block1_pool:avg", "image_size": "32", "precision": "float32", **settings},
                "Paths": {"artifacts": str(artifacts)},
            }
        )
    )  # fmt: skip
    stages.index_images(project, Silent())
    stages.resolve_features(project, Silent())
    return project


@pytest.fixture
def there(tmp_path, alone, address):
    """The same project, computed by the workers."""
    project = make_project(tmp_path, tmp_path / "there")
    return on(project, address)


def on(project, scheduler, **settings):
    spec = ClusterSpec(scheduler, **settings)
    project.settings = replace(project.settings, cluster=spec)
    return project


def features(project, copy=0):
    reader = open_cache(project.backbones[0].cache("train", copy).path)
    return {name: np.asarray(reader[name]).tobytes() for name in reader.taps} | {"status": reader.status.tobytes()}


def computed(control):
    path = control / "computed"
    return path.stat().st_size if path.exists() else 0


def when(condition, act, over=None):
    """Act in a thread as soon as `condition` holds; not at all once the test is `over`."""
    over = over or threading.Event()

    def wait():
        end = time.monotonic() + 60
        while time.monotonic() < end and not over.is_set():
            if condition():
                act()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def kill_one(project):
    """SIGKILL to one worker process."""
    workers = client.connect(project)._client.run(os.getpid)
    os.kill(next(iter(workers.values())), signal.SIGKILL)


def test_workers_write_the_same_bytes_and_each_row_once(alone, there, control):
    said = stages.extract_split(there, "train", Silent())
    assert features(there) == features(alone)
    assert computed(control) == ROWS
    assert said.endswith(" · 2 workers")
    run = open_cache(there.backbones[0].cache("train", 0).path).run
    assert run["computed"] == ROWS
    assert sum(run["shares"].values()) == pytest.approx(1, abs=0.01)
    assert run["rows"] == open_cache(alone.backbones[0].cache("train", 0).path).run["rows"]
    assert [path.name for path in there.folder.iterdir() if path.name.startswith(".tmp-")] == []


def test_copies_share_their_decoding_and_what_stands_elsewhere_is_copied(tmp_path, alone, address, control):
    here = make_project(tmp_path, tmp_path / "alone2", copies="2")
    stages.extract_split(here, "train", Silent())
    project = on(make_project(tmp_path, tmp_path / "there"), address)
    stages.extract_split(project, "train", Silent())
    before = computed(control)
    write_photos(tmp_path / "photos", 41, 1)  # an image more a class: most blocks are part new, part copied
    more = on(make_project(tmp_path, tmp_path / "there", copies="2", mirror="true"), address)
    stages.extract_split(more, "train", Silent())
    assert computed(control) - before == 3 + 3 * (ROWS + 3)
    whole = make_project(tmp_path, tmp_path / "whole", copies="2", mirror="true")
    stages.extract_split(whole, "train", Silent())
    assert [features(more, copy) for copy in (0, 1, 2, MIRROR)] == [features(whole, copy) for copy in (0, 1, 2, MIRROR)]


def test_a_killed_worker_costs_no_more_than_the_blocks_in_its_hands(alone, there, control):
    for name in ("slow-0", "slow-1"):
        (control / name).touch()
    killer = when(lambda: computed(control) >= 4 * BATCH, lambda: kill_one(there))
    said = stages.extract_split(there, "train", Silent())
    killer.join()
    assert features(there) == features(alone)
    assert ROWS <= computed(control) <= ROWS + LOST
    assert "1 worker lost" in said
    assert "retried" in said


def test_a_worker_out_of_memory_is_started_again(alone, there, control):
    (control / "eat").touch()
    said = stages.extract_split(there, "train", Silent())
    assert features(there) == features(alone)
    assert "1 worker lost" in said
    assert computed(control) <= ROWS + LOST


def test_a_straggler_holds_its_own_blocks_and_nothing_is_computed_twice(alone, there, control):
    (control / "slow-0").touch()
    stages.extract_split(there, "train", Silent())
    assert features(there) == features(alone)
    assert computed(control) == ROWS


def test_a_poison_image_is_told_by_name_and_everything_else_is_kept(tmp_path, alone, there, address, control):
    poison = tmp_path / "photos/train/disc/7.png"
    whole = poison.read_bytes()
    poison.write_bytes(whole + b"POISON")
    project = on(make_project(tmp_path, tmp_path / "poisoned"), address)
    with pytest.raises(ClusterError) as caught:
        stages.extract_split(project, "train", Silent())
    assert "'disc/7.png' of train crashes the decoder: remove that image" in str(caught.value)
    (partial,) = (project.folder / "features").glob("*.partial.h5")
    reader = open_cache(partial, partial=True)
    assert reader.durable.sum() == ROWS - BATCH
    poison.write_bytes(whole)
    before = computed(control)
    again = on(make_project(tmp_path, tmp_path / "poisoned"), address)
    stages.extract_split(again, "train", Silent())
    assert computed(control) - before == BATCH
    assert features(again) == features(alone)


def test_a_changed_image_is_told_as_ever_and_finished_blocks_are_kept(tmp_path, there, control):
    write_photos(tmp_path / "photos", 1, 0)
    path = tmp_path / "photos/train/square/20.png"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(SourceChangedError, match=r"square/20.png' changed after indexing: run again"):
        stages.extract_split(there, "train", Silent())
    assert list((there.folder / "features").glob("*.partial.h5"))


def test_a_worker_that_does_not_fit_is_named_with_the_difference(tmp_path, there):
    workers = client.connect(there)
    with client.verified_workers(workers, there, weights=True) as terms:
        for other, message in [
            ({"facts": {**terms.facts, "numpy": "0.9"}}, r"worker at tcp://127.0.0.1:\d+: it runs numpy \S+ instead of 0.9: install"),
            ({"probe": tmp_path / "elsewhere/probe"}, r"worker at tcp://\S+: it can't read the artifacts folder \S+elsewhere"),
            ({"probe": tmp_path / "probe"}, r"it sees another folder as .*: workers and this process must share a file sys"),
        ]:  # fmt: skip
            (tmp_path / "probe").write_text("of another run")
            with pytest.raises(ClusterError, match=message):
                workers.verify(replace(terms, token="b" * 32, **other))
        moved = replace(terms.settings, dataset=replace(terms.settings.dataset, path=tmp_path / "moved"))
        (tmp_path / "probe").write_text("c" * 32)
        with pytest.raises(ClusterError, match=r"worker at tcp://\S+: \S+moved is not a folder of images"):
            workers.verify(replace(terms, token="c" * 32, settings=moved, probe=tmp_path / "probe"))


def test_no_scheduler_and_too_few_workers_are_one_line(there, address, monkeypatch):
    monkeypatch.setattr(client, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 .*start it") as caught:
        stages.extract_split(on(there, "tcp://127.0.0.1:9"), "train", Silent())
    assert "\n" not in str(caught.value)
    with pytest.raises(ClusterError, match=r"only \d of 5 are connected to tcp://\S+: start the others"):
        stages.extract_split(on(there, address, workers=5), "train", Silent())


def test_a_scheduler_that_is_started_again_is_gone_on_with(tmp_path, alone, control):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (control / "slow-0").touch()
    project = on(make_project(tmp_path, tmp_path / "again"), f"tcp://127.0.0.1:{port}")
    with contextlib.ExitStack() as stack:
        first = [started(stack, "scheduler", "--port", port), started_worker(stack, port, control)]

        def start_again():
            for process in first:  # a worker of today's Dask ends with its scheduler; who started it starts it again
                process.kill()
            started(stack, "scheduler", "--port", port)
            started_worker(stack, port, control)

        over = threading.Event()
        stack.callback(over.set)
        wait_for(int(port))
        restart = when(lambda: computed(control) >= 4 * BATCH, start_again, over)
        notices = Notices()
        said = stages.extract_split(project, "train", notices)
        restart.join()
        assert features(project) == features(alone)
        assert ROWS <= computed(control) <= ROWS + LOST
        assert any("is gone; waiting for it" in notice for notice in notices.messages)
        assert said.endswith("retried")
        client.connect(project).close()


def wait_for(port):
    """Until somebody listens there."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)


def started(stack, what, *arguments):
    """``dask scheduler`` or ``dask worker`` in a process of its own, ended with the test."""
    words = [sys.executable, "-m", "dask", what, *arguments, "--host", "127.0.0.1", "--no-dashboard"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(lambda: (process.kill(), process.wait()))
    return process


def started_worker(stack, port, control):
    environment = {**os.environ, "NUMPY_WORKERS": str(control), "PYTHONPATH": str(HERE)}
    words = [f"tcp://127.0.0.1:{port}", "--nthreads", "2", "--no-nanny", "--name", "0", "--host", "127.0.0.1"]
    words = [
        sys.executable,
        "-m",
        "dask",
        "worker",
        *words,
        "--preload",
        str(HERE / "numpy_backbone.py"),
        "--no-dashboard",
    ]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(lambda: (process.kill(), process.wait()))
    return process
