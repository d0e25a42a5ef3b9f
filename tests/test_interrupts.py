"""Ctrl-C and killed stages: one line, the right exit status, and what was computed is kept."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import SMALL, command, environment

from featcache.cache.reader import open_cache
from featcache.errors import CacheFormatError

FAILED = 30


def durable_rows(folder):
    try:
        return sum(open_cache(path, partial=True).journaled_rows for path in folder.glob("*.partial.h5"))
    except CacheFormatError:  # its writer has only just begun
        return 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupt_ends_in_one_line_and_keeps_what_was_computed(tmp_path, monkeypatch, workers):
    if workers == "2":
        monkeypatch.setenv("NUMPY_BACKBONE", "1")
    settings = {**SMALL, "Features_taps": "block1_pool", "Features_image_size": "128"}
    process = subprocess.Popen(
        command("ExtractFeatures", "--workers", workers, **settings),
        cwd=tmp_path, env=environment(FEATCACHE_BLOCK_BYTES="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    partials, deadline = tmp_path / "artifacts/digits/features", time.monotonic() + 120
    while not durable_rows(partials) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group
    out, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT, "a shell shows 130"
    assert len(err.splitlines()) == 1, err
    assert err.startswith("featcache: interrupted")
    assert "Traceback" not in out
    assert 0 < durable_rows(partials) < 1438, "what was computed is kept"


def test_a_killed_stage_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMPY_BACKBONE", "1")
    settings = {**SMALL, "Features_taps": "block1_pool", "Features_image_size": "128"}
    process = subprocess.Popen(
        command("ExtractFeatures", "--workers", "2", **settings),
        cwd=tmp_path, env=environment(FEATCACHE_BLOCK_BYTES="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    caches, deadline = tmp_path / "artifacts/digits/features", time.monotonic() + 120
    while not list(caches.glob("train-*.partial.h5")) and time.monotonic() < deadline:
        time.sleep(0.1)
    holder = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    os.kill(int(holder.read_text().split()[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=200)
    assert process.returncode == FAILED
    assert err.splitlines() == [err.strip()], "one line"
    assert "ExtractSplit: its process died with exit code -9; run again to resume" in err
