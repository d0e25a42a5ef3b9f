"""The frozen network, compiled once for one batch shape. [Keras]

Keras runs on TensorFlow, JAX or torch (``KERAS_BACKEND``); what differs between them is here and nowhere else.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from featcache.core.gpu import free_bytes, is_out_of_memory
from featcache.core.keras_import import plain_keras, prepare_gpu
from featcache.errors import BackboneError
from featcache.features.batch_pipeline import STREAMS
from featcache.features.devices import Device, find_device, make_deterministic
from featcache.features.network import build_network, map_name
from featcache.features.side_by_side import Convolution, choose, noticed, same_bytes, side_by_side
from featcache.features.weights import ResolvedWeights
from featcache.settings import FeaturesSpec, backbone_settings

Features = dict[str, npt.NDArray[np.float16]]
_Run = Callable[[npt.NDArray[np.uint8]], Mapping[str, Any]]

# (largest image side, batch size): beyond these nothing is gained on a CPU, and activations leave its caches
_CPU_BATCHES = ((96, 64), (160, 16))
_CPU_BATCH = 8
# of a batch on a GPU: this fills a large one; a quarter fits into a small one, whatever else is in its memory
_GPU_PIXELS, _GPU_SURE_PIXELS = 256 * 224 * 224, 64 * 224 * 224
_GPU_BATCH = 2048
# A pixel in VGG16's first block: 64 channels of up to 4 bytes in two layers, as much again for a convolution's work space,
# and all of it in two passes at once. Of the free memory the frameworks themselves and fragments take up to a third.
_GPU_PIXEL_BYTES, _GPU_SHARE = 2 * 4 * 64 * 4, 2 / 3
_CONSTANT_BYTES = 1 << 29  # a TensorFlow graph may have 2 GB, and is copied when it is optimised
# Seconds of passes to come, of which two are under way at once, and batches among them, from which on another program pays:
# it takes 2 s to compile and three passes to try, and saves 15 % of a pass where bfloat16 is fastest, and 4 to 8 % elsewhere.
_CONSTANT_SECONDS, _CONSTANT_BATCHES = 30.0, 45


class _Program(NamedTuple):
    """The forward pass as it is compiled for one batch shape; replaced as a whole, as several threads use it."""

    batch_size: int
    run: _Run
    side_by_side: tuple[str, ...] = ()


class Backbone:
    """A frozen network with its taps. Several threads may use it at once.

    Attributes:
        taps: tap name -> shape of one row, (h, w, c) or (c,), in the order of the settings.
        batch_size: rows of the compiled shape; halves itself when a GPU runs out of memory.
        device: what it is computed on.
    """

    def __init__(self, network: Any, batch_size: int, device: Device, outputs: Collection[str]) -> None:
        """Compile some of the outputs of what `build_network` returned with maps on this device."""
        self.device, self._with_maps = device, network
        chosen = {name: tensor for name, tensor in network.output.items() if name in outputs}
        self.taps: dict[str, tuple[int, ...]] = {name: tuple(tensor.shape[1:]) for name, tensor in chosen.items()}
        self._network = network if len(chosen) == len(network.output) else keras.Model(network.input, chosen)
        self._image_shape = tuple(network.input.shape[1:])
        self._program = self._compile(batch_size)
        self._lock = threading.Lock()
        self._rows, self._expected = 0, 0
        self._timed, self._seconds = 0, 0.0  # rows of passes that had no part in compiling, and how long they took
        self._settled = False

    @property
    def batch_size(self) -> int:
        """Rows of the compiled shape."""
        return self._program.batch_size

    @property
    def side_by_side(self) -> tuple[str, ...]:
        """Names of the convolutions that work on several images at once, as that is faster here."""
        return self._program.side_by_side

    def _compile(self, batch_size: int, *, constant: bool = False) -> _Program:
        shape = (batch_size, *self._image_shape)
        return _Program(batch_size, _compiled(self._network, shape, self.device.place, constant=constant))

    @plain_keras()
    def with_maps(self, taps: Collection[str], rows: int) -> "Backbone":
        """Return the same network, its layers shared, for so few rows: some of its taps, the pooled ones joined by their maps.

        What a pooled tap pools over is (h, w, c) under its `map_name`, where it has places. Rows are split evenly among the
        passes that are under way at once.
        """
        outputs = {name for tap in taps for name in (tap, map_name(tap))}
        rounds = -(-rows // (STREAMS * self.batch_size))
        return Backbone(self._with_maps, -(-rows // (STREAMS * rounds)), self.device, outputs)

    def expect(self, rows: int) -> None:
        """Take note that so many rows are about to come, which decides whether `settle` pays."""
        with self._lock:
            self._expected = self._rows + rows

    @plain_keras()
    def forward(self, images: npt.NDArray[np.uint8]) -> Features:
        """Map (b, size, size, 3) uint8 RGB to tap name -> (b, ...) float16; what exceeds float16's range is infinite.

        It is computed in pieces of `batch_size`, the last one padded, so that a row's features do not depend on b.

        Raises:
            BackboneError: `images` has another shape or dtype, or the GPU's memory is too small for one of them.
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
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(program.batch_size, error)
            else:
                start += len(piece)
        if len(pieces) == 1:
            return pieces[0]
        empty = {name: np.zeros((0, *shape), np.float16) for name, shape in self.taps.items()}
        return {name: np.concatenate([piece[name] for piece in pieces or [empty]]) for name in self.taps}

    def _halve(self, batch_size: int, error: Exception) -> None:
        """Compile for half as many rows, unless another thread has."""
        if batch_size == 1:
            fault = f"image_size={self._image_shape[0]}: the memory of {self.device.name} is too small for one image"
            fix = "nvidia-smi shows which programs hold it: end them, or hide the GPU by CUDA_VISIBLE_DEVICES=-1"
            raise BackboneError(f"{fault} ({type(error).__name__}): {fix}") from error
        with self._lock:
            if self._program.batch_size == batch_size:
                self._program = self._compile(batch_size // 2)

    def _forward_piece(self, program: _Program, images: npt.NDArray[np.uint8]) -> Features:
        begun, count, compiled = time.perf_counter(), len(images), self._rows > 0
        if count < program.batch_size:
            padded = np.zeros((program.batch_size, *images.shape[1:]), np.uint8)
            padded[:count] = images
            images = padded
        outputs = program.run(images)
        features = {name: keras.ops.convert_to_numpy(outputs[name])[:count] for name in self.taps}
        with self._lock:
            self._rows += count
            if compiled:
                self._timed += count
                self._seconds += time.perf_counter() - begun
        needed = _CONSTANT_SECONDS + self._seconds_of(_CONSTANT_BATCHES * program.batch_size)
        if not self._settled and self._seconds_left() > needed:
            self.settle()
        return features

    def _seconds_left(self) -> float:
        """Of passes that are to come: as many as those of the expected rows take, or as were spent, if that is more."""
        return max(self._seconds_of(self._expected - self._rows), self._seconds)

    def _seconds_of(self, rows: int) -> float:
        return rows * self._seconds / max(1, self._timed)

    @plain_keras()
    def settle(self) -> None:
        """Spend some seconds on finding a program that is faster, with the same bits; other threads go on meanwhile.

        It comes by itself as soon as enough computing is to come, by the rows that are expected and the time that one
        takes. Where constant weights don't pay, nothing is compiled again.
        """
        with self._lock:
            due, program = not self._settled, self._program
            self._settled = True
        if due and self.device.capability is None and _constants_pay(self._network):
            with keras.device(self.device.place):
                faster = self._faster(program)
            with self._lock:
                if self._program is program:
                    self._program = faster

    def _faster(self, program: _Program) -> _Program:
        """The program with constant weights, and small images side by side where a trial says so, if no bit changes."""
        rows = program.batch_size
        images = np.random.default_rng(0).integers(0, 256, (rows, *self._image_shape), np.uint8)
        images[0] = 0

        def compiled(convolution: Convolution) -> Callable[[Any], Any]:
            layer, shape, dtype = convolution
            return _compiled(layer, shape, self.device.place, constant=True, dtype=dtype)

        with noticed(self._network) as found:
            candidates = [self._compile(rows, constant=True)]
        if chosen := choose(found, compiled):
            with side_by_side(chosen):
                names = tuple(each.layer.name for each in chosen)
                candidates.insert(0, self._compile(rows, constant=True)._replace(side_by_side=names))
        expected = program.run(images)
        return next((each for each in candidates if same_bytes(each.run(images), expected)), program)


def load_backbone(
    spec: FeaturesSpec,
    weights: ResolvedWeights,
    precision: str,
    batch_size: int | None = None,
    device: Device | None = None,
) -> Backbone:
    """Build the network of `spec`, load its weights and make it ready to run in one of `PRECISIONS`.

    `batch_size` is the rows of one forward pass; None takes what is fast on the device at this image size, and fits into
    its memory. No `device` is the first GPU that Keras' backend sees, or else the processor.

    Raises:
        BackboneError: unknown backbone or tap (near ones are named), image size below the minimum.
        WeightsError: the weights file can't be read or belongs to another architecture.
    """
    backbone_settings(spec)
    prepare_gpu()
    device = device or find_device()
    if spec.deterministic and device.capability is not None:
        make_deterministic()
    with keras.device(device.place):
        network = build_network(spec, weights, precision, maps=True)
    return Backbone(
        network, batch_size or _batch_size(spec, precision, device), device, [tap.name for tap in spec.taps]
    )


def _batch_size(spec: FeaturesSpec, precision: str, device: Device) -> int:
    side = spec.image_size
    if device.capability is None:
        return next((batch for most, batch in _CPU_BATCHES if side <= most), _CPU_BATCH)
    pixels = _GPU_SURE_PIXELS if spec.deterministic else _GPU_PIXELS  # what is free may be other in the next run
    if not spec.deterministic and (free := free_bytes()) is not None:
        bytes_each = _GPU_PIXEL_BYTES // (1 if precision == "float32" else 2)
        pixels = min(pixels, int(_GPU_SHARE * free) // bytes_each)
    fitting = min(max(1, pixels // side**2), _GPU_BATCH)
    return 1 << (fitting.bit_length() - 1)  # a power of two, so that halving stays whole


def _compiled(
    network: Any, shape: tuple[int, ...], place: str, *, constant: bool = False, dtype: str = "uint8"
) -> Callable[[Any], Any]:
    """Return the forward pass of a network, or a layer, for one batch shape at a `Device.place`.

    With `constant`, the kernels become constants of TensorFlow's graph (`_constants_pay`). oneDNN brings kernels into a
    layout of its own before it convolves: a variable one at every batch (4 % of VGG16's forward pass at 48 pixels, and 8 %
    where bfloat16 is twice as fast), a constant one once. Compiling takes seconds.
    """
    if keras.backend.backend() == "torch":
        import torch

        def run_torch(images: npt.NDArray[np.uint8]) -> Mapping[str, Any]:
            with torch.no_grad(), keras.device(place):
                return network(images, training=False)  # type: ignore[no-any-return]  # Keras has no types

        return run_torch
    if keras.backend.backend() == "jax":
        import jax

        trained = [variable.value for variable in network.trainable_variables]
        frozen = [variable.value for variable in network.non_trainable_variables]
        compiled = jax.jit(lambda a, b, images: network.stateless_call(a, b, images, training=False)[0])

        def run_jax(images: npt.NDArray[np.uint8]) -> Mapping[str, Any]:
            with keras.device(place):
                return compiled(trained, frozen, images)  # type: ignore[no-any-return]  # JAX has no types here

        return run_jax
    import tensorflow as tf

    # no XLA: on CPUs it is slower than oneDNN's kernels (a fifth of the speed in bfloat16)
    call = _with_constants(network) if constant else lambda images: network(images, training=False)
    run = tf.function(call, input_signature=[tf.TensorSpec(shape, dtype)], autograph=False)
    if constant:
        run = run.get_concrete_function()  # now, as convolutions may be called another way later

    def run_tensorflow(images: npt.NDArray[np.uint8]) -> Mapping[str, Any]:
        with tf.device(place):
            return run(tf.constant(images))  # type: ignore[no-any-return]  # TensorFlow has no types

    return run_tensorflow


def _constants_pay(network: Any) -> bool:
    """Whether TensorFlow's graph can hold the weights; on a GPU nothing would be gained."""
    return keras.backend.backend() == "tensorflow" and bool(4 * network.count_params() <= _CONSTANT_BYTES)


def _with_constants(network: Any) -> Callable[[Any], Any]:
    """Kernels alone: TensorFlow multiplies them by other constants, such as a normalisation's, which changes bits."""
    kernels = [variable for variable in network.variables if variable.name.endswith("kernel")]
    values = [(variable, keras.ops.convert_to_numpy(variable)) for variable in kernels]

    def call(images: Any) -> Any:
        with keras.StatelessScope(values):
            return network(images, training=False)

    return call
