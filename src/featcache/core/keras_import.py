"""Keras' own settings and files, and a quiet import.

Keras takes settings from keras.json, from the environment and from the program around it. Only the choice of the backend
counts here; under another default dtype or image format, values would differ under the same key.
"""

import atexit
import gc
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from featcache.core.paths import fault, read_bytes
from featcache.errors import SettingsError

_BACKENDS = ("tensorflow", "jax", "torch")
_PLAIN = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
_WHOLE = {"max_epochs": None, "max_steps_per_epoch": None}  # limits of `fit`, which older releases don't know
# What keras.json may say; anything else fails inside Keras' import.
_VALID: Mapping[str, tuple[str, ...]] = {
    "floatx": ("float16", "float32", "float64"),
    "image_data_format": ("channels_last", "channels_first"),
}
# These let float32 be computed in bfloat16 on processors that have it, which [Features] precision decides.
_FEWER_BITS = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "TF_SET_ONEDNN_FPMATH_MODE")
# float32 is float32 on GPUs, too: by default cuDNN, cuBLAS and JAX take TF32, of ten bits, from Ampere on.
_ALL_BITS = {"NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
# A framework takes GPU memory as it needs it, and not all of it at once: other processes may use the GPU, too.
_GROWING = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
# What Keras imports where it is installed, a second in all, for data frames, wrappers and galleries that nothing here uses.
_PARTNERS = ("matplotlib", "pandas", "sklearn")
_own_process = False


def home_folder() -> Path | None:
    """Return the user's home folder, which may not exist; None for a user without one (``docker run -u 12345``)."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def keras_folder() -> Path:
    """Return the folder of Keras' settings and weights, which may not exist, by Keras' own rules."""
    if named := os.environ.get("KERAS_HOME"):
        try:
            return Path(named).expanduser()
        except RuntimeError:
            return Path(named)
    home = home_folder()
    writable = home is not None and os.access(home, os.W_OK)
    return (home if home is not None and writable else Path("/tmp")) / ".keras"  # noqa: S108 - where Keras goes, too


def keras_backend() -> str:
    """Return the backend that Keras will choose, without the seconds that importing it takes."""
    if named := os.environ.get("KERAS_BACKEND"):
        return named
    try:
        return str(_keras_json(keras_folder() / "keras.json").get("backend", _BACKENDS[0]))
    except SettingsError:
        return _BACKENDS[0]


def keras_fault() -> tuple[str, str] | None:
    """Return why Keras could not be imported under its settings, and what to do; None where nothing is wrong."""
    path = keras_folder() / "keras.json"
    fix = f"correct or remove {path}"
    try:
        stored = _keras_json(path)
    except SettingsError as error:
        return str(error), f"{fix}, or set KERAS_HOME to another folder"
    for name, valid in _VALID.items():
        if stored.get(name, valid[0]) not in valid:
            return f"{path}: unknown {name}={stored[name]!r}; known: {', '.join(valid)}", fix
    if not isinstance(stored.get("epsilon", 1e-7), float):
        return f"{path}: epsilon={stored['epsilon']!r} is not a float", fix
    named = os.environ.get("KERAS_BACKEND")
    source, key = ("the environment", "KERAS_BACKEND") if named else (path, "backend")
    fix = "unset KERAS_BACKEND" if named else fix
    backend = named or stored.get("backend", _BACKENDS[0])
    if backend not in _BACKENDS:
        return f"{source}: unknown {key}={backend!r}; known: {', '.join(_BACKENDS)}", fix
    if backend not in sys.modules and find_spec(backend) is None:
        return f"{source}: {key}={backend!r} is not installed", f"pip install {backend}, or {fix}"
    return None


def check_keras() -> None:
    """Refuse settings under which Keras could not be imported; reads a small file, and imports nothing.

    Raises:
        SettingsError: keras.json is wrong, or it or the environment names a backend that isn't installed.
    """
    if found := keras_fault():
        raise SettingsError(": ".join(found))


def _keras_json(path: Path) -> dict[str, Any]:
    """Return the content of keras.json; {} if it can't be found or isn't JSON, which Keras ignores."""
    try:
        path.stat()
    except OSError:
        return {}
    try:
        stored = json.loads(read_bytes(path))
    except ValueError:
        return {}
    except (OSError, RecursionError) as error:
        reason = fault(error) if isinstance(error, OSError) else "nested too deeply"
        raise SettingsError(f"{path} can't be read: {reason}") from error
    if not isinstance(stored, dict):
        raise SettingsError(f"{path} is not a JSON object but a {type(stored).__name__}")
    return stored


def prepare_gpu() -> None:
    """Set what a framework reads from the environment when it first uses a GPU; unlike precision, memory is the user's choice."""
    os.environ.update(_ALL_BITS)
    for name, value in _GROWING.items():
        os.environ.setdefault(name, value)


def own_process() -> None:
    """Say that no code but featcache's will use Keras in this process: it is imported without the libraries that go with it."""
    global _own_process
    _own_process = True


def import_keras(log: Path) -> None:
    """Import Keras and its backend, which takes seconds; what native code prints meanwhile is appended to `log`.

    TensorFlow prints on standard error, below Python and before its own log level applies, that it uses oneDNN and found
    no GPU. Errors in Python, such as a missing package, are raised as usual.

    Raises:
        ImportError: Keras or its backend is not installed.
        SettingsError: Keras' own settings are wrong (`check_keras`).
    """
    prepare_gpu()
    if "keras" in sys.modules:
        return
    check_keras()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in _FEWER_BITS:
        os.environ.pop(name, None)
    if not os.environ.get("KERAS_HOME"):  # empty, it would be the working folder
        os.environ.pop("KERAS_HOME", None)
    with _standard_error_into(log), _without_collector(), _without_partners() if _own_process else nullcontext():
        try:
            import keras
        except (ValueError, TypeError, AttributeError) as error:
            where = f"check {keras_folder() / 'keras.json'} and the environment's KERAS_ variables"
            raise SettingsError(f"Keras can't be imported: {error}: {where}") from error
        keras.backend.backend()


_LOCK = threading.Lock()
_users = 0  # of plain Keras: the first one sets the plain settings, the last one restores the previous ones
_previous: dict[str, Any] = {}


@contextmanager
def plain_keras() -> Iterator[None]:
    """Use Keras' own defaults (float32, channels last), whatever keras.json or a notebook has set; restored afterwards.

    Also a decorator. Whatever builds, loads, traces or trains a Keras model is inside.
    """
    global _users, _previous
    import keras

    config, policy = keras.config, keras.config.dtype_policy()  # each thread has its own policy
    with _LOCK:
        if not _users:
            wanted = _PLAIN | {name: value for name, value in _WHOLE.items() if hasattr(config, name)}
            _previous = {name: getattr(config, name)() for name in wanted}
            _put(config, wanted)
        _users += 1
    config.set_dtype_policy(_PLAIN["floatx"])
    try:
        yield
    finally:
        config.set_dtype_policy(policy)
        with _LOCK:
            _users -= 1
            if not _users:
                _put(config, _previous)


def _put(config: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        getattr(config, f"set_{name}")(value)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Import without Python's search for unreachable objects, here and at the process' end.

    What is imported stays. Looking through its 400,000 objects again and again is a quarter of Keras' import, and 2 seconds
    of processor time at the end, when all memory is given back anyway.
    """
    atexit.register(gc.freeze)
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Absent(MetaPathFinder):
    """Has `_PARTNERS` look to this thread as if they weren't installed; what somebody has imported is there."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname in _PARTNERS and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is not for Keras", name=fullname)


@contextmanager
def _without_partners() -> Iterator[None]:
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)


@contextmanager
def _standard_error_into(log: Path) -> Iterator[None]:
    with suppress(OSError, ValueError, AttributeError):  # full, closed, or none at all
        sys.stderr.flush()
    kept = os.dup(2)
    try:
        try:
            target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:  # another user's folder, a full disk
            target = os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, 2)
        os.close(target)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
