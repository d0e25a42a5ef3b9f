"""`featcache doctor`: what each look says of machines and settings that are sound, lacking or broken."""

import http.server
import json
import socket
import sys
import threading
from importlib import metadata

import pytest

from featcache.core.progress import Silent
from featcache.inspection.doctor import hardware, report, settings, software, storage
from featcache.inspection.doctor.check import FAIL, PASS, WARN, Check
from featcache.project.config_file import configured_project
from featcache.settings.cluster_spec import ClusterSpec
from featcache.settings.specs import FeaturesSpec


def python(program):
    return (sys.executable, "-c", program)


FACTS = {"backend": "tensorflow", "capability": None, "gpus": [], "cuda": True}


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "crashed with SIGILL: this processor lacks"),
        ("import os; os.abort()", "crashed with SIGABRT"),
        ("import time; time.sleep(60)", "took longer than 5 s"),
        ("raise ImportError('no module of that name')", "failed: ImportError: no module of that name"),
    ],
    ids=["SIGILL", "abort", "hang", "missing"],
)
def test_a_backend_that_crashes_or_hangs_is_a_fault_like_any_other(program, found):
    checks = list(hardware.hardware_checks("auto", Silent(), python(program), seconds=5.0))
    assert [(check.name, check.state) for check in checks][:2] == [("backend", FAIL), ("processor", PASS)]
    assert found in checks[0].found
    assert checks[0].fix


def test_auto_precision_goes_by_the_gpu_that_the_backend_sees():
    facts = json.dumps(FACTS | {"gpus": ["Tesla T4"], "capability": [7, 5]})
    checks = {c.name: c for c in hardware.hardware_checks("auto", Silent(), python(f"print('{facts}')"))}
    assert checks["gpu"] == Check("gpu", PASS, "Tesla T4; compute capability 7.5")
    assert checks["precision"].found == "float32: GPU of compute capability 7.5, which lacks bfloat16 units"


@pytest.mark.parametrize(
    ("device", "driver", "hidden", "facts", "state", "found"),
    [
        (False, False, None, {}, PASS, "none in this machine"),
        (True, False, None, {}, WARN, "its driver isn't"),
        (True, True, "-1", {}, WARN, "hidden by CUDA_VISIBLE_DEVICES='-1'"),
        (True, True, None, {"cuda": False}, WARN, "this build of TensorFlow has no CUDA"),
        (True, True, "1", {}, WARN, "tensorflow can't use it: Cannot dlopen some GPU libraries."),
    ],
    ids=["none", "driver", "hidden", "cpu build", "libraries"],
)
def test_why_a_gpu_is_not_used(device, driver, hidden, facts, state, found, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    for wanted, path, text in (
        (device, "sys/bus/pci/devices/0/vendor", "0x10de\n"),
        (driver, "proc/driver/nvidia/version", ""),
    ):
        if wanted:
            (tmp_path / path).parent.mkdir(parents=True)
            (tmp_path / path).write_text(text)
    said = "I0000 gpu_device.cc:2343] Cannot dlopen some GPU libraries.\nSkipping registering\n"
    check = hardware.gpu_check(FACTS | facts, said, tmp_path)
    assert check.state == state
    assert found in check.found
    assert bool(check.fix) == (state != PASS)


def test_the_disk_is_tried_and_left_as_it_was(tmp_path):
    checks = {check.name: check for check in storage.storage_checks(tmp_path / "not/there/yet")}
    assert list(checks) == ["disk room", "disk speed", "file locks"]
    assert checks["file locks"].state == PASS
    assert "B/s with fsync" in checks["disk speed"].found
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_forgets_is_told(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n")
    speed = next(check for check in storage.storage_checks(tmp_path, mounts) if check.name == "disk speed")
    assert (speed.state, "tmpfs, which forgets everything at a restart" in speed.found) == (WARN, True)


def test_a_folder_that_cannot_be_written_fails():
    checks = list(storage.storage_checks(storage.Path("/proc/artifacts")))
    assert checks[-1].name == "writing"
    assert checks[-1].state == FAIL
    assert checks[-1].found.startswith("/proc can't be written: ")


def test_versions_are_held_to_their_ranges(monkeypatch):
    assert next(check for check in software.software_checks() if check.name == "packages").state == PASS
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name == "keras" else version(name))
    packages = next(check for check in software.software_checks() if check.name == "packages")
    assert packages.state == FAIL
    assert packages.found.startswith("keras 1.0 is not ")


def test_an_installation_that_is_none_is_told_and_the_rest_is_looked_at(monkeypatch):
    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", unknown)
    monkeypatch.setattr(metadata, "requires", unknown)
    checks = {check.name: check for check in software.software_checks()}
    assert (checks["python"].state, checks["packages"].state) == (PASS, WARN)
    assert "PYTHONPATH" in checks["packages"].found


def test_another_installations_luigi_is_told(tmp_path, monkeypatch):
    luigi = tmp_path / "luigi"
    luigi.write_text("#!/bin/sh\n")
    luigi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    commands = next(check for check in software.software_checks() if check.name == "commands")
    assert (commands.state, commands.found) == (WARN, f"luigi is {luigi}, of another installation")


def test_a_mistake_in_luigi_cfg_is_a_fault_and_the_rest_is_looked_at_all_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "luigi.cfg").write_text("[Feature]\nimage_size = 48\n")
    monkeypatch.setattr(report, "hardware_checks", lambda setting, progress: iter(()))
    record = report.doctor_record([], Silent())
    check = next(check for check in record["checks"] if check["name"] == "luigi.cfg")
    assert check["state"] == record["state"] == FAIL
    assert report.failed(record)
    assert "did you mean [Features]?" in check["found"]
    assert check["fix"].startswith("mend it")
    assert "file locks" in {check["name"] for check in record["checks"]}
    monkeypatch.setenv("LUIGI_CONFIG_PATH", "gone.cfg")
    (tmp_path / "luigi.cfg").unlink()
    assert settings.configuration_check([])[0].state == FAIL


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


def test_weights_are_there_or_within_reach_or_it_is_said_where_to_put_them(tmp_path, monkeypatch, server):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    auto, imagenet = FeaturesSpec(), FeaturesSpec(weights="imagenet")
    monkeypatch.setenv("FEATCACHE_WEIGHTS_URL", f"http://{server}")
    assert settings.weights_check(auto).state == PASS
    monkeypatch.setenv("FEATCACHE_WEIGHTS_URL", f"http://{server}/no")
    assert "answered 404" in settings.weights_check(auto).found
    assert [settings.weights_check(spec).state for spec in (auto, imagenet)] == [WARN, FAIL]
    assert f"into {tmp_path / 'models'}" in settings.weights_check(imagenet).fix
    file = tmp_path / "models/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file.parent.mkdir()
    file.write_bytes(b"half of it")
    damaged = settings.weights_check(auto)
    assert (damaged.state, "is damaged" in damaged.found) == (FAIL, True)
    assert settings.weights_check(FeaturesSpec(weights=str(file))).state == PASS
    assert settings.weights_check(FeaturesSpec(weights=str(tmp_path / "gone.h5"))).state == FAIL
    assert settings.weights_check(FeaturesSpec(weights="random")).state == WARN


def test_schedulers_are_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("FEATCACHE_WEIGHTS_URL", "http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert settings.cluster_check(ClusterSpec(f"tcp://127.0.0.1:{port}")).state == PASS
    gone = settings.cluster_check(ClusterSpec(f"tcp://127.0.0.1:{port}"))
    assert (gone.state, gone.found) == (FAIL, f"nothing answers at tcp://127.0.0.1:{port}: Connection refused")
    assert settings.cluster_check(ClusterSpec()).state == PASS
    (tmp_path / "luigi.cfg").write_text(
        f"[core]\nlocal_scheduler = false\nscheduler_host = 127.0.0.1\nscheduler_port = {port}\n"
        "[Dataset]\nsource = folder\npath = gone\nname = gone\n"
    )
    checks = {check.name: check.state for check in settings.settings_checks(configured_project())}
    assert checks == {"images": FAIL, "weights": WARN, "luigid": FAIL, "cluster": PASS}
