"""The frozen network, compiled once for one batch shape. [Keras]

Keras runs on TensorFlow, JAX or torch (``KERAS_BACKEND``); what differs between them is here and nowhere else.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from featcache.core.keras_import import plain_keras
from featcache.errors import BackboneError
from featcache.features.network import build_network
from featcache.features.weights import ResolvedWeights
from featcache.settings import FeaturesSpec, backbone_settings

Features = dict[str, npt.NDArray[np.float16]]
_Run = Callable[[npt.NDArray[np.uint8]], Mapping[str, Any]]

# (largest image side, batch size): beyond these nothing is gained on a CPU, and activations leave its caches
_CPU_BATCHES = ((96, 64), (160, 16))
_CPU_BATCH = 8
_GPU_PIXELS = 256 * 224 * 224  # fills a large GPU; halved where it does not fit
_GPU_BATCH = 2048
_CONSTANT_BYTES = 1 << 29  # a TensorFlow graph may have 2 GB, and is copied when it is optimised
_CONSTANT_AFTER = 60.0  # seconds of computing


class _Program(NamedTuple):
    """The forward pass as it is compiled for one batch shape; replaced as a whole, as several threads use it."""

    batch_size: int
    run: _Run
    out_of_memory: type[Exception]


class Backbone:
    """A frozen network with its taps. Several threads may use it at once.

    Attributes:
        taps: tap name -> shape of one row, (h, w, c) or (c,), in the order of the settings.
        batch_size: rows of the compiled shape; halves itself when a GPU runs out of memory.
    """

    def __init__(self, network: Any, batch_size: int) -> None:
        """Compile what `build_network` returned."""
        self.taps: dict[str, tuple[int, ...]] = {name: tuple(out.shape[1:]) for name, out in network.output.items()}
        self._network, self._image_shape = network, tuple(network.input.shape[1:])
        self._program = self._compile(batch_size)
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._settled = False

    @property
    def batch_size(self) -> int:
        """Rows of the compiled shape."""
        return self._program.batch_size

    def _compile(self, batch_size: int, *, constant: bool = False) -> _Program:
        return _Program(batch_size, *_compiled(self._network, (batch_size, *self._image_shape), constant=constant))

    @plain_keras()
    def forward(self, images: npt.NDArray[np.uint8]) -> Features:
        """Map (b, size, size, 3) uint8 RGB to tap name -> (b, ...) float16; what exceeds float16's range is infinite.

        It is computed in pieces of `batch_size`, the last one padded, so that a row's features do not depend on b.

        Raises:
            BackboneError: `images` has another shape or dtype.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self._image_shape:
            found = f"images of shape={images.shape}, dtype={images.dtype}"
            raise BackboneError(f"{found} are not (b, {', '.join(map(str, self._image_shape))}) uint8")
        pieces: list[Features] = []
        start = 0
        while start < len(images):
            program = self._program
            piece = images[start : start + program.batch_size]
            try:
                pieces.append(self._forward_piece(program, piece))
            except program.out_of_memory as error:
                # JAX has one exception for everything that fails while running
                other = type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" not in str(error)
                if other or program.batch_size == 1:
                    raise
                with self._lock:
                    if self._program.batch_size == program.batch_size:  # else another thread has done it
                        self._program = self._compile(program.batch_size // 2)
            else:
                start += len(piece)
        if len(pieces) == 1:
            return pieces[0]
        empty = {name: np.zeros((0, *shape), np.float16) for name, shape in self.taps.items()}
        return {name: np.concatenate([piece[name] for piece in pieces or [empty]]) for name in self.taps}

    def _forward_piece(self, program: _Program, images: npt.NDArray[np.uint8]) -> Features:
        begun, count = time.perf_counter(), len(images)
        if count < program.batch_size:
            padded = np.zeros((program.batch_size, *images.shape[1:]), np.uint8)
            padded[:count] = images
            images = padded
        outputs = program.run(images)
        features = {name: keras.ops.convert_to_numpy(outputs[name])[:count] for name in self.taps}
        with self._lock:
            self._seconds += time.perf_counter() - begun
        if self._seconds > _CONSTANT_AFTER and not self._settled:
            self.settle()
        return features

    @plain_keras()
    def settle(self) -> None:
        """Spend some seconds on compiling a program that is a little faster; other threads go on meanwhile.

        It comes by itself once a minute was spent on computing, as then as much is likely to come. Where constant
        weights don't pay, nothing is compiled again.
        """
        with self._lock:
            due, program = not self._settled, self._program
            self._settled = True
        if due and _constants_pay(self._network):
            faster = self._compile(program.batch_size, constant=True)
            faster.run(np.zeros((program.batch_size, *self._image_shape), np.uint8))
            with self._lock:
                if self._program is program:
                    self._program = faster


def load_backbone(
    spec: FeaturesSpec, weights: ResolvedWeights, precision: str, batch_size: int | None = None
) -> Backbone:
    """Build the network of `spec`, load its weights and make it ready to run in ``float32`` or ``bfloat16``.

    `batch_size` is the rows of one forward pass; None takes what is fast on this device at this image size.

    Raises:
        BackboneError: unknown backbone or tap (near ones are named), image size below the minimum.
        WeightsError: the weights file can't be read or belongs to another architecture.
    """
    backbone_settings(spec)
    _grow_memory()
    return Backbone(build_network(spec, weights, precision), batch_size or _batch_size(spec.image_size))


def gpu_capability() -> tuple[int, int] | None:
    """Return the CUDA compute capability of the GPU that Keras computes on, None on anything else."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    if keras.backend.backend() == "jax":
        import jax

        text = str(getattr(jax.devices()[0], "compute_capability", ""))
        major, _, minor = text.partition(".")
        return (int(major), int(minor or 0)) if major.isdigit() else None
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    found = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability") if gpus else None
    return (int(found[0]), int(found[1])) if found else None


def _batch_size(image_size: int) -> int:
    if gpu_capability() is not None:
        fitting = max(1, _GPU_PIXELS // image_size**2)
        return 1 << (min(fitting, _GPU_BATCH).bit_length() - 1)  # a power of two, so that halving stays whole
    return next((batch for side, batch in _CPU_BATCHES if image_size <= side), _CPU_BATCH)


def _grow_memory() -> None:
    """Let TensorFlow take GPU memory as it needs it, not all of it at once: other processes may use the GPU too."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        if not tf.config.experimental.get_memory_growth(gpu):
            try:
                tf.config.experimental.set_memory_growth(gpu, True)
            except RuntimeError:
                return  # the GPU is in use already, by the caller's own code: its choice counts


def _compiled(network: Any, shape: tuple[int, ...], *, constant: bool = False) -> tuple[_Run, type[Exception]]:
    """Return the forward pass for one batch shape, and the exception raised when memory is out.

    With `constant`, the weights become constants of TensorFlow's graph (`_constants_pay`). oneDNN brings kernels into a
    layout of its own before it convolves: a variable one at every batch (4 % of VGG16's forward pass at 48 pixels, and 8 %
    where bfloat16 is twice as fast), a constant one once. Values are the same bit by bit; compiling takes seconds.
    """
    if keras.backend.backend() == "torch":
        import torch

        def run_torch(images: npt.NDArray[np.uint8]) -> Mapping[str, Any]:
            with torch.no_grad():
                return network(images, training=False)  # type: ignore[no-any-return]  # Keras has no types

        return run_torch, torch.OutOfMemoryError
    if keras.backend.backend() == "jax":
        import jax

        trained = [variable.value for variable in network.trainable_variables]
        frozen = [variable.value for variable in network.non_trainable_variables]
        compiled = jax.jit(lambda a, b, images: network.stateless_call(a, b, images, training=False)[0])
        return lambda images: compiled(trained, frozen, images), jax.errors.JaxRuntimeError
    import tensorflow as tf

    # no XLA: on CPUs it is slower than oneDNN's kernels (a fifth of the speed in bfloat16)
    call = _with_constants(network) if constant else lambda images: network(images, training=False)
    run = tf.function(call, input_signature=[tf.TensorSpec(shape, tf.uint8)], autograph=False)
    return lambda images: run(tf.constant(images)), tf.errors.ResourceExhaustedError


def _constants_pay(network: Any) -> bool:
    """Whether TensorFlow computes on a CPU, and its graph can hold the weights."""
    small = 4 * network.count_params() <= _CONSTANT_BYTES
    return keras.backend.backend() == "tensorflow" and gpu_capability() is None and small


def _with_constants(network: Any) -> Callable[[Any], Mapping[str, Any]]:
    trained = [keras.ops.convert_to_numpy(variable) for variable in network.trainable_variables]
    frozen = [keras.ops.convert_to_numpy(variable) for variable in network.non_trainable_variables]
    return lambda images: network.stateless_call(trained, frozen, images, training=False)[0]
