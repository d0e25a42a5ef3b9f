"""Cores and GPUs dealt out to worker processes; the same figures in docs/scaling.md as in its script."""

import importlib.util
from pathlib import Path

import pytest

from featcache.errors import ClusterError
from featcache.settings.specs import ClusterSpec
from featcache.stages.workers.local_workers import deal_out

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("settings", "cores", "expected"),
    [
        ({}, 8, ["0,1,2,3", "4,5,6,7"]),
        ({}, 2, ["0,1"]),
        ({"workers": 2, "threads": 1}, 8, ["0", "1"]),
        ({"workers": 3}, 8, ["0,1", "2,3", "4,5"]),
        ({"workers": 2, "threads": 2}, 2, ["0,1", "0,1"]),
        ({"workers": 3, "threads": 5}, 2, ["0,1", "1,0", "0,1"]),
    ],
)
def test_cores_are_dealt_out(settings, cores, expected):
    places = deal_out(ClusterSpec("local", **settings), list(range(cores)), [])
    assert [place["FEATCACHE_WORKER_CPUS"] for place in places] == expected
    assert all("CUDA_VISIBLE_DEVICES" not in place for place in places)


def test_each_gpu_is_one_workers_alone():
    spec = ClusterSpec("local", gpus_per_worker=1)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in deal_out(spec, [0, 1], ["0", "2", "5"])] == ["0", "2", "5"]
    two = ClusterSpec("local", workers=2, gpus_per_worker=2)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in deal_out(two, [0, 1], list("0123"))] == ["0,1", "2,3"]
    with pytest.raises(ClusterError, match="gpus_per_worker = 2: 2 workers need 4 GPUs, 3 are visible"):
        deal_out(two, [0, 1], list("012"))
    with pytest.raises(ClusterError, match="gpus_per_worker = 1: 1 workers need 1 GPUs, 0 are visible"):
        deal_out(spec, [0, 1], [])


def test_unasked_there_is_a_worker_a_gpu_and_more_workers_share_them():
    def dealt(spec, gpus):
        return [place.get("CUDA_VISIBLE_DEVICES") for place in deal_out(spec, list(range(16)), gpus)]

    assert dealt(ClusterSpec("local"), ["0", "1"]) == ["0", "1"]
    assert dealt(ClusterSpec("local", workers=3), ["0", "1"]) == ["0", "1", "0"]
    assert dealt(ClusterSpec("local"), []) == [None] * 4


def test_the_documents_tables_are_those_of_the_script():
    path = ROOT / "benchmarks/scaling_table.py"
    script = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("scaling_table", path))
    spec.loader.exec_module(script)
    told = (ROOT / "docs/scaling.md").read_text()
    for images in script.KINDS:
        assert "\n".join(script.table(images)) in told, "python benchmarks/scaling_table.py prints them"
