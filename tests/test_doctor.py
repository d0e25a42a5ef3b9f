"""`featcache doctor`: what each check finds on machines and settings that are sound, incomplete or broken."""

import http.server
import json
import threading
from importlib import metadata
from pathlib import Path

import pytest

from featcache.core.progress import Silent
from featcache.inspection.doctor import checks, hardware, report
from featcache.inspection.doctor.checks import FAIL, PASS, WARN, Check
from featcache.settings.specs import DatasetSpec, FeaturesSpec


def python(program):
    return ("-c", program)


FACTS = {"backend": "tensorflow", "device": "a processor, 2 cores", "capability": None, "problem": "", "kernels": []}
WHEEL = ["sm_60", "sm_70", "sm_80", "sm_89", "compute_90"]


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "crashed with SIGILL"),
        ("import os; os.abort()", "crashed with SIGABRT"),
        ("import time; time.sleep(60)", "took longer than 5 s"),
        (
            "raise ImportError('no module of that name')",
            "failed with exit status 1: ImportError: no module of that name",
        ),
    ],
    ids=["SIGILL", "abort", "hang", "missing"],
)
def test_a_backend_that_crashes_or_hangs_is_a_fault_like_any_other(program, found):
    results = list(hardware.hardware_checks("auto", Silent(), python(program), seconds=5.0))
    assert [(check.name, check.state) for check in results][:2] == [("backend", FAIL), ("precision", PASS)]
    assert found in results[0].found
    assert results[0].fix


def card(name, *capability):
    return FACTS | {"device": name, "capability": capability, "kernels": WHEEL}


def test_auto_precision_goes_by_the_gpu_that_the_backend_sees():
    facts = json.dumps(card("Tesla T4", 7, 5))
    results = {c.name: c for c in hardware.hardware_checks("auto", Silent(), python(f"print('{facts}')"))}
    assert results["device"] == Check("device", PASS, "Tesla T4, compute capability 7.5")
    assert results["precision"].found.startswith("float16: GPU of compute capability 7.5")


def test_a_gpu_that_is_not_used_is_a_warning_with_cause_and_fix():
    assert hardware.device_check(FACTS) == Check("device", PASS, "a processor, 2 cores")
    problem = "Tesla T4 is not used: tensorflow finds no CUDA libraries: pip install 'featcache[gpu]'"
    check = hardware.device_check(FACTS | {"problem": problem})
    assert check.state == WARN
    assert check.found == "a processor, 2 cores; Tesla T4 is not used: tensorflow finds no CUDA libraries"
    assert check.fix == "pip install 'featcache[gpu]'"


@pytest.mark.parametrize(
    ("facts", "end", "why", "fix"),
    [
        (
            card("RTX 5090", 12, 0),
            "time.sleep(60)",
            "has kernels for sm_60, sm_70, sm_80, sm_89, compute_90",
            "take its time",
        ),
        (card("Tesla P100", 6, 0), "os.abort()", "cuDNN has dropped cards before compute capability 7.5", "cu12<9.11"),
        (card("NVIDIA A100", 8, 0), "os.abort()", "the driver may be too old", "newer driver"),
    ],
    ids=["new", "old", "other"],
)
def test_a_gpu_on_which_the_backend_fails_is_the_gpus_fault_and_not_the_backends(facts, end, why, fix):
    """The child ends so unless the GPU is hidden from it."""
    hidden = "os.environ.get('CUDA_VISIBLE_DEVICES') == '-1'"
    program = f"import os, time; print('{json.dumps(facts)}', flush=True); {hidden} or {end}"
    results = {c.name: c for c in hardware.hardware_checks("auto", Silent(), python(program), seconds=2.0)}
    assert (results["backend"].state, results["device"].state) == (PASS, WARN)
    assert results["device"].found.startswith(f"{facts['device']}, compute capability ")
    assert why in results["device"].found
    assert fix in results["device"].fix
    assert "GPU" not in results["precision"].found, "a run takes the processor"


def test_the_disk_is_tried_and_left_as_it_was(tmp_path):
    check = checks.disk_check(tmp_path / "not/there/yet")
    assert f"free in {tmp_path}" in check.found
    assert list(tmp_path.iterdir()) == []


def test_low_disk_space_and_locks_that_do_not_work(tmp_path, monkeypatch):
    for free, state in ((10**12, PASS), (5 * 10**9, WARN), (10**6, FAIL)):
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda path, free=free: type("Usage", (), {"free": free}))
        assert checks.disk_check(tmp_path).state == state
    monkeypatch.setattr(checks, "try_lock", lambda *_: True)
    check = checks.disk_check(tmp_path)
    assert (check.state, check.found) == (FAIL, f"file locks do not work in {tmp_path}")


def test_a_folder_that_cannot_be_written_fails():
    check = checks.disk_check(Path("/proc/artifacts"))
    assert check.state == FAIL
    assert check.found.startswith("/proc can't be written: ")


def test_versions_are_held_to_their_ranges(monkeypatch):
    assert checks.packages_check().state == PASS
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name == "keras" else version(name))
    packages = checks.packages_check()
    assert packages.state == FAIL
    assert packages.found.startswith("keras 1.0 is not ")


def test_a_missing_installation_is_a_warning(monkeypatch):
    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", unknown)
    monkeypatch.setattr(metadata, "requires", unknown)
    check = checks.packages_check()
    assert check.state == WARN
    assert "PYTHONPATH" in check.found


def test_the_luigi_of_another_installation_is_a_warning(tmp_path, monkeypatch):
    luigi = tmp_path / "luigi"
    luigi.write_text("#!/bin/sh\n")
    luigi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = checks.python_check()
    assert (check.state, check.found.partition("; ")[2]) == (WARN, f"luigi is {luigi}, of another installation")


def test_a_mistake_in_luigi_cfg_is_a_fault_and_the_other_checks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "luigi.cfg").write_text("[Feature]\nimage_size = 48\n")
    monkeypatch.setattr(report, "hardware_checks", lambda setting, progress: iter(()))
    record = report.doctor_record([], Silent())
    check = next(check for check in record["checks"] if check["name"] == "luigi.cfg")
    assert check["state"] == record["state"] == FAIL
    assert report.failed(record)
    assert "did you mean [Features]?" in check["found"]
    assert check["fix"].startswith("fix it")
    assert "disk" in {check["name"] for check in record["checks"]}
    monkeypatch.setenv("LUIGI_CONFIG_PATH", "gone.cfg")
    (tmp_path / "luigi.cfg").unlink()
    assert checks.configuration_check([])[0].state == FAIL


@pytest.fixture
def server():
    """A server that has every file whose name doesn't begin with "no"."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path.startswith("/no") else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_weights_are_there_or_can_be_downloaded_or_the_fix_names_their_place(tmp_path, monkeypatch, server):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    auto, imagenet = FeaturesSpec(), FeaturesSpec(weights="imagenet")
    monkeypatch.setenv("FEATCACHE_WEIGHTS_URL", f"http://{server}")
    assert checks.weights_check(auto).state == PASS
    monkeypatch.setenv("FEATCACHE_WEIGHTS_URL", f"http://{server}/no")
    assert "answered 404" in checks.weights_check(auto).found
    assert [checks.weights_check(spec).state for spec in (auto, imagenet)] == [WARN, FAIL]
    assert f"into {tmp_path / 'models'}" in checks.weights_check(imagenet).fix
    file = tmp_path / "models/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file.parent.mkdir()
    file.write_bytes(b"half of it")
    damaged = checks.weights_check(auto)
    assert (damaged.state, "is damaged" in damaged.found) == (FAIL, True)
    assert checks.weights_check(FeaturesSpec(weights=str(file))).state == PASS
    assert checks.weights_check(FeaturesSpec(weights=str(tmp_path / "gone.h5"))).state == FAIL
    assert checks.weights_check(FeaturesSpec(weights="random")).state == WARN


def test_the_images_folder_exists(tmp_path):
    assert checks.images_check(DatasetSpec()).state == PASS
    assert checks.images_check(DatasetSpec(source="folder", path=tmp_path)).state == PASS
    assert checks.images_check(DatasetSpec(source="folder", path=tmp_path / "gone")).state == FAIL
