"""GPUs as far as they can be pretended: device files, what a framework says of a card, and what it raises."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from command import ROOT, environment
from head_rows import examples_of
from notices import Notices

from featcache.core import gpu, keras_import
from featcache.core.progress import Silent
from featcache.features import devices
from featcache.features.devices import Device, find_device
from featcache.features.extraction_job import row_settings
from featcache.project import resolved
from featcache.settings.architectures import backbone_settings
from featcache.settings.schedules import Phase
from featcache.settings.specs import FeaturesSpec, HeadsSpec
from featcache.stages import features, heads
from featcache.training.heads.numpy_engine import NumpyEngine
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import HeadPlan, head_type_settings

T4 = Device("Tesla T4", (7, 5), place="gpu:0")


def driver(root, numbers=(0,), model="Tesla T4"):
    """The files of NVIDIA's driver and of the cards with these numbers."""
    (root / "dev").mkdir(parents=True)
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{number}" for number in numbers)):
        (root / "dev" / name).touch()
    folder = root / "proc/driver/nvidia/gpus/0000:00:04.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 33\n")
    version = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12\n"
    )
    (root / "proc/driver/nvidia/version").write_text(version)
    return root


@pytest.fixture(autouse=True)
def unnamed(monkeypatch):
    monkeypatch.delenv(gpu.VISIBLE, raising=False)


# -- what the driver's files say --------------------------------------------------------------------------------------


def test_gpus_are_counted_from_0_as_cuda_does(tmp_path, monkeypatch):
    assert (gpu.gpu_count(tmp_path), gpu.visible_gpus(tmp_path), gpu.may_have_gpu(tmp_path)) == (0, [], False)
    root = driver(tmp_path / "one", numbers=(3,))
    assert gpu.visible_gpus(root) == ["0"], "in a container that was given /dev/nvidia3 alone"
    assert gpu.visible_gpus(driver(tmp_path / "two", numbers=(1, 2))) == ["0", "1"]
    assert gpu.may_have_gpu(root)
    for hidden in ("", "-1", "-1,0"):
        monkeypatch.setenv(gpu.VISIBLE, hidden)
        assert not gpu.may_have_gpu(root)
    for named, expected in (("GPU-1a, 3", ["GPU-1a", "3"]), ("1,-1,0", ["1"])):
        monkeypatch.setenv(gpu.VISIBLE, named)
        assert gpu.visible_gpus(root) == expected


def test_windows_driver_is_a_card_without_a_device_file(tmp_path):
    (tmp_path / "usr/lib/wsl/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/wsl/lib/libcuda.so.1").touch()
    assert gpu.visible_gpus(tmp_path) == ["0"]


def test_the_driver_names_card_and_version(tmp_path):
    assert (gpu.card_name(tmp_path), gpu.driver_version(tmp_path)) == ("NVIDIA GPU", "")
    root = driver(tmp_path / "x")
    assert (gpu.card_name(root), gpu.driver_version(root)) == ("Tesla T4", "535.104.05")
    opened = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
    (root / "proc/driver/nvidia/version").write_text(opened)
    assert gpu.driver_version(root) == "570.86.15"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("echo 14823", 14823 << 20),
        ("echo '[N/A]'", None),
        ("echo 'Failed to initialize NVML'; exit 9", None),
        (None, None),
    ],
)
def test_free_memory_is_what_nvidia_smi_says(tmp_path, monkeypatch, program, expected):
    if program is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    gpu.free_bytes.cache_clear()
    try:
        assert gpu.free_bytes() == expected
    finally:
        gpu.free_bytes.cache_clear()


def test_memory_grows_and_float32_has_all_its_bits_before_keras_is_imported(tmp_path):
    """In a process of its own, with a Keras that prints the environment that its backend would find."""
    (tmp_path / "keras.py").write_text(
        "import json, os\nprint(json.dumps(dict(os.environ)))\nclass backend:\n    backend = lambda: 'none'\n"
    )
    program = "import featcache.core.keras_import as k; from pathlib import Path; k.import_keras(Path('/dev/null'))"
    variables = environment(XLA_PYTHON_CLIENT_PREALLOCATE="true", NVIDIA_TF32_OVERRIDE="1", KERAS_BACKEND="tensorflow")
    variables["PYTHONPATH"] = f"{tmp_path}:{variables['PYTHONPATH']}"
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert found["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true", "the user's own choice"
    assert (found["NVIDIA_TF32_OVERRIDE"], found["JAX_DEFAULT_MATMUL_PRECISION"]) == ("0", "highest")


def test_doctors_child_takes_no_more_memory_than_it_needs(monkeypatch):
    from featcache.inspection.child_process import environment as of_child

    for name in (*keras_import._GROWING, *keras_import._ALL_BITS):
        monkeypatch.delenv(name, raising=False)
    assert of_child().items() >= {**keras_import._GROWING, **keras_import._ALL_BITS}.items()


# -- what a framework says --------------------------------------------------------------------------------------------


class FakeTensorFlow:
    """What is asked of TensorFlow, with this card or none."""

    def __init__(self, device=None, cuda=True):
        details = {"device_name": device.name, "compute_capability": device.capability} if device else {}
        self.test = SimpleNamespace(is_built_with_cuda=lambda: cuda)
        self.sysconfig = SimpleNamespace(get_build_info=lambda: {"cuda_version": "12.5.1"})
        experimental = SimpleNamespace(get_device_details=lambda _: details)
        self.config = SimpleNamespace(
            list_physical_devices=lambda _: ["/physical_device:GPU:0"] * bool(device), experimental=experimental
        )


@pytest.fixture
def frameworks(monkeypatch):
    """Sets which TensorFlow there is; Keras is its own backend's name alone."""

    def pretend(tensorflow, card=True, libraries=False, smi=(0, "GPU 0: Tesla T4")):
        backend = SimpleNamespace(backend=lambda: "tensorflow")
        monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(backend=backend))
        monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
        monkeypatch.setattr(devices, "may_have_gpu", lambda: card)
        monkeypatch.setattr(devices, "card_name", lambda: "Tesla T4")
        monkeypatch.setattr(devices, "driver_version", lambda: "450.80.02")
        monkeypatch.setattr(devices, "nvidia_smi", lambda *_: smi)
        monkeypatch.setattr(devices, "find_spec", lambda name: libraries or None)

    return pretend


def test_a_gpu_that_can_be_used_is_the_device(frameworks):
    frameworks(FakeTensorFlow(T4))
    assert find_device() == T4
    assert devices.processor().place == "cpu:0"


@pytest.mark.parametrize(
    ("found", "cause", "fix"),
    [
        ({"tensorflow": FakeTensorFlow(cuda=False)}, "built without CUDA", "pip uninstall tensorflow-cpu"),
        ({"tensorflow": FakeTensorFlow()}, "tensorflow finds no CUDA libraries", "pip install 'featcache[gpu]'"),
        ({"tensorflow": FakeTensorFlow(), "libraries": True}, "CUDA 12.5.1 on driver 450.80.02", "newer driver"),
        ({"tensorflow": FakeTensorFlow(), "smi": (9, "Driver/library version mismatch")}, "version mismatch", "reboot"),
    ],
    ids=["wheel", "libraries", "old driver", "broken driver"],
)
def test_a_gpu_that_cannot_be_used_is_named_with_cause_and_fix(frameworks, found, cause, fix):
    frameworks(**found)
    device = find_device()
    assert (device.name, device.capability) == (devices.processor().name, None)
    assert device.problem.startswith("Tesla T4 is not used: ")
    assert cause in device.problem
    assert fix in device.problem
    assert "\n" not in device.problem


def test_without_a_card_there_is_no_problem(frameworks):
    frameworks(FakeTensorFlow(), card=False)
    assert find_device() == devices.processor()


def test_without_a_card_no_framework_is_asked(monkeypatch):
    monkeypatch.setattr(resolved, "may_have_gpu", lambda: False)
    monkeypatch.setattr(resolved, "import_keras", lambda _: pytest.fail("it takes seconds"))
    assert resolved.device_of(SimpleNamespace()) == devices.processor()


# -- precision, on this GPU and on another machine --------------------------------------------------------------------


class FakeProject:
    def __init__(self, tmp_path, **recorded):
        cluster = SimpleNamespace(scheduler="none")
        self.settings = SimpleNamespace(features=FeaturesSpec(), cluster=cluster)
        self.folder, self.records, self.backbones = tmp_path, recorded, [self]

    def resolved(self, what):
        return self.records.get(what)

    def record_resolved(self, what, record):
        self.records[what] = record


@pytest.mark.parametrize(
    ("capability", "passes", "chosen", "reason"),
    [
        ((7, 5), ("float16", "float32"), "float16", "float16 units and none for bfloat16"),
        ((8, 0), ("bfloat16", "float32"), "bfloat16", "bfloat16 units"),
        ((7, 5), ("float32",), "float32", "float16 failed the self-check"),
        ((9, 0), (), None, "processor"),
        ((6, 0), ("float32",), "float32", "no such units"),
    ],
)
def test_the_fastest_precision_that_the_gpu_computes_right_is_recorded(
    tmp_path, monkeypatch, capability, passes, chosen, reason
):
    project = FakeProject(tmp_path)
    gpu_device, cpu = Device("a card", capability), Device("cores", None, "a card is not used: why")

    def backbone(project, _):
        return SimpleNamespace(device=gpu_device if project.records["precision"]["value"] in passes else cpu)

    monkeypatch.setattr(features, "device_of", lambda _: gpu_device)
    monkeypatch.setattr(features, "resolved_backbone", backbone)
    features._resolve_precision(project, project, Silent())
    assert chosen in (None, project.records["precision"]["value"])
    assert reason in project.records["precision"]["reason"]


def test_a_precision_that_was_resolved_on_another_machine_and_is_slow_here_is_a_notice(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "device_of", lambda _: Device("A100", (8, 0)))
    record = {"value": "float16", "host": "colab", "setting": "auto"}
    [line] = features._slow_precision(FakeProject(tmp_path, precision=record))
    assert "precision=float16 was chosen on colab and may be slow here" in line
    assert "[Features] precision = bfloat16" in line
    assert features._slow_precision(FakeProject(tmp_path, precision={**record, "value": "bfloat16"})) == []
    here = {**record, "host": features.platform.node()}
    assert features._slow_precision(FakeProject(tmp_path, precision=here)) == []
    assert features._slow_precision(FakeProject(tmp_path)) == []


# -- memory -----------------------------------------------------------------------------------------------------------


ERRORS = {
    "ResourceExhaustedError": "OOM when allocating tensor with shape[256,64,224,224]",
    "InternalError": "Dst tensor is not initialized.",
    "NotFoundError": "No algorithm worked!  Error messages: ...",
    "FailedPreconditionError": "DNN library initialization failed. Look at the errors above for more details.",
    "UnknownError": "Fail to find the dnn implementation. CUDNN_STATUS_ALLOC_FAILED",
    "JaxRuntimeError": "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12884901888 bytes.",
    "OutOfMemoryError": "CUDA out of memory. Tried to allocate 2.00 GiB",
}


@pytest.mark.parametrize("kind", ERRORS)
def test_too_little_memory_is_known_in_all_its_forms(kind):
    assert gpu.is_out_of_memory(type(kind, (Exception,), {})(ERRORS[kind]))


@pytest.mark.parametrize("text", ["CUDNN_STATUS_EXECUTION_FAILED", "NotFoundError: no such file", "INVALID_ARGUMENT"])
def test_other_errors_are_not_taken_for_it(text):
    assert not gpu.is_out_of_memory(RuntimeError(text))


# -- heads --------------------------------------------------------------------------------------------------------------


class FailingEngine:
    """NumPy's, which stops at the second step as a GPU does."""

    error = RuntimeError("INTERNAL: ptxas not found in\npath")

    def __init__(self, plan, weights):
        self._engine, self._steps = NumpyEngine(plan, weights), 0

    @property
    def weights(self):
        return self._engine.weights

    def train_step(self, batch, rate):
        self._steps += 1
        if self._steps == 2:
            raise self.error
        return self._engine.train_step(batch, rate)


def train_on_a_gpu(engine, tmp_path, monkeypatch, setting="keras"):
    """Train a small bag; the heads' record of where, the weights, and the notices."""
    plan = HeadPlan(16, 3, (8,), (0.2, 0.3), (Phase(1e-2, 2),), 16)
    labels = np.arange(60) % 3
    values = np.random.default_rng(0).normal(labels[:, None], 1, (60, 16)).astype(np.float16)
    examples = examples_of([values], labels, by_folds(np.arange(60) % 2, np.ones(60, bool)))
    monkeypatch.setattr(heads, "_keras_engine", lambda _: (engine, T4))
    project = SimpleNamespace(settings=SimpleNamespace(heads=HeadsSpec(seeds=1, engine=setting)), folder=tmp_path)
    progress = Notices()
    bag, device = heads._trained(project, "dense", examples, plan, progress, "pooled")
    return device, bag.weights, progress.messages


def test_heads_are_trained_by_numpy_unless_the_gpu_is_asked_for(tmp_path, monkeypatch):
    device, _, messages = train_on_a_gpu(None, tmp_path, monkeypatch, HeadsSpec().engine)
    assert (device, messages) == (devices.processor(), [])
    device, _, messages = train_on_a_gpu(NumpyEngine, tmp_path, monkeypatch)
    assert (device, messages) == (T4, [])


@pytest.mark.parametrize("kind", [*ERRORS, "RuntimeError"])
def test_numpy_takes_over_from_a_gpu_that_fails_with_the_same_result_and_a_notice(tmp_path, monkeypatch, kind):
    error = type(kind, (Exception,), {})(ERRORS.get(kind, "INTERNAL: ptxas not found in\npath"))
    monkeypatch.setattr(FailingEngine, "error", error)
    device, weights, [line] = train_on_a_gpu(FailingEngine, tmp_path, monkeypatch)
    assert line.startswith(f"[Heads] engine=keras failed for pooled/dense ({kind}: ")
    assert "\n" not in line
    _, expected, _ = train_on_a_gpu(None, tmp_path, monkeypatch, "numpy")
    assert device == devices.processor()
    assert all(np.array_equal(weights[name], array) for name, array in expected.items())


def test_an_engine_is_in_no_key():
    assert head_type_settings(HeadsSpec(engine="keras"), "dense") == head_type_settings(HeadsSpec(), "dense")


def test_deterministic_features_have_a_key_of_their_own_and_others_keep_theirs():
    settings = [
        row_settings(spec, backbone_settings(spec), "w", "float32", 0)["block5_pool_avg"]
        for spec in (FeaturesSpec(), FeaturesSpec(deterministic=True))
    ]
    assert settings[1] == {**settings[0], "deterministic": True}
    assert "deterministic" not in settings[0]


@pytest.mark.parametrize(("answer", "extra"), [("echo 'GPU 0: Tesla T4'", "[gpu]"), ("exit 9", ""), (None, "")])
def test_make_installs_cudas_libraries_where_nvidia_smi_answers(tmp_path, answer, extra):
    (tmp_path / "bin").mkdir()
    for name in ("make", "sh", "grep"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    if answer is not None:
        (tmp_path / "bin/nvidia-smi").write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / "bin/nvidia-smi").chmod(0o755)
    words = ["make", "--dry-run", "submit", "test", f"VENV={tmp_path}"]
    done = subprocess.run(words, cwd=ROOT, env={"PATH": f"{tmp_path}/bin"}, capture_output=True, text=True)
    assert f"--editable '.{extra}'\n" in done.stdout, done.stderr
    assert f"touch {tmp_path}/.installed{'-gpu' * bool(extra)}\n" in done.stdout
