import contextlib
import itertools
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from featcache.core.progress import Silent
from featcache.dataset.decoding.decode import decode_rgb
from featcache.errors import BackboneError, WeightsError
from featcache.features import backbone, self_check, side_by_side
from featcache.features.backbone import Backbone, load_backbone
from featcache.features.devices import Device, processor
from featcache.features.network import map_name
from featcache.features.weights import resolve_weights
from featcache.settings.specs import FeaturesSpec, Tap

Images = npt.NDArray[np.uint8]

# Keras reads TensorFlow's variables through a protocol that NumPy 2 wants otherwise; it happens where these tests save
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def images() -> Images:
    """(5, 48, 48, 3) coarse random patches, nearer to photos than noise is."""
    patches = np.random.default_rng(7).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    return patches.repeat(8, axis=1).repeat(8, axis=2)


def load(precision: str = "float32", batch_size: int = 4, **settings: Any) -> Backbone:
    taps = tuple(Tap.parse(text) for text in settings.pop("taps", "block5_pool").split())
    spec = FeaturesSpec(**{"weights": "random", **settings, "taps": taps})
    return load_backbone(spec, resolve_weights(spec, Silent()), precision, batch_size)


@pytest.fixture(scope="module")
def vgg16() -> Backbone:
    return load(taps="block1_conv1 block4_pool block5_pool block5_pool:avg block5_pool:max")


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (a, b))
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)  # type: ignore[no-any-return]


def test_features_have_the_declared_shapes(vgg16: Backbone, images: Images) -> None:
    expected = {
        "block1_conv1": (48, 48, 64),
        "block4_pool": (3, 3, 512),
        "block5_pool": (1, 1, 512),
        "block5_pool_avg": (512,),
        "block5_pool_max": (512,),
    }
    assert vgg16.taps == expected
    assert vgg16._network.count_params() == 14_714_688
    features = vgg16.forward(images)
    assert {name: (array.shape[1:], array.dtype, len(array)) for name, array in features.items()} == {
        name: (shape, np.float16, 5) for name, shape in expected.items()
    }


def test_preprocessing_is_that_of_keras_once(vgg16: Backbone, images: Images) -> None:
    """The first convolution by hand: BGR minus means, 3x3 window, relu."""
    import keras

    pixels = keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    kernel, bias = first_convolution(vgg16)
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # (b, h, w, c, 3, 3)
    expected = np.maximum(np.einsum("bhwcij,ijco->bhwo", windows, kernel, optimize=True) + bias, 0)
    np.testing.assert_allclose(vgg16.forward(images)["block1_conv1"], expected, rtol=2e-3, atol=0.05)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg16", [146.061, -16.779, -113.68]),  # BGR minus means
        ("mobilenet", [-0.92157, -0.21569, 0.96078]),  # -1 to 1
    ],
)
def test_networks_get_pixels_as_they_were_trained_on(name: str, expected: list[float]) -> None:
    """Golden vectors, worked out by hand of one pixel; the first layer is a tap, too."""
    spec = FeaturesSpec(name, "random", (Tap("input_layer"), Tap("output", "avg")), image_size=32)
    backbone = load_backbone(spec, resolve_weights(spec, Silent()), "float32", batch_size=2)
    features = backbone.forward(np.full((2, 32, 32, 3), (10, 100, 250), np.uint8))
    np.testing.assert_allclose(features["input_layer"][1, 7, 3], expected, rtol=1e-3)
    assert np.isfinite(features["output_avg"]).all()


def test_pixels_are_standardised_or_left_as_they_are() -> None:
    """For networks whose building takes long: DenseNet's golden vector, and those that preprocess inside."""
    from featcache.features.network_weights import preprocessed

    pixels = np.full((1, 2, 2, 3), (10, 100, 250), np.float32)
    np.testing.assert_allclose(preprocessed(pixels, "torch")[0, 1, 1], [-1.94666, -0.28501, 2.55285], rtol=1e-4)
    assert np.array_equal(preprocessed(pixels, "none"), pixels)


def first_convolution(backbone: Backbone) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    kernels = [np.asarray(item) for item in backbone._network.get_weights()]
    return next((a, b) for a, b in itertools.pairwise(kernels) if a.shape == (3, 3, 3, 64))


def test_random_weights_give_the_features_they_always_gave(vgg16: Backbone, images: Images) -> None:
    """Whoever changes these changes `RANDOM_VERSION`, or caches lie."""
    features = vgg16.forward(images)["block5_pool_avg"][:, [375, 108, 59, 509, 135, 36]]
    np.testing.assert_allclose(features[0], [301.25, 185.75, 145.5, 117.3125, 93.125, 76.8125], rtol=2e-3)
    np.testing.assert_allclose(features[3], [273.5, 178.625, 129.625, 120.625, 65.1875, 115.625], rtol=2e-3)


def test_pooled_taps_pool_the_tap(images: Images) -> None:
    features = load(taps="block4_pool block4_pool:avg block4_pool:max").forward(images)
    whole = features["block4_pool"].astype(np.float32)
    np.testing.assert_allclose(features["block4_pool_avg"], whole.mean((1, 2)), rtol=2e-3, atol=1e-2)
    np.testing.assert_array_equal(features["block4_pool_max"], whole.max((1, 2)))


@pytest.mark.parametrize("tap", ["block4_pool", "block5_pool:avg"])
def test_one_tap_alone_is_the_same_and_nothing_behind_it_is_computed(vgg16: Backbone, images: Images, tap: str) -> None:
    alone = load(taps=tap)
    name = Tap.parse(tap).name
    np.testing.assert_array_equal(alone.forward(images)[name], vgg16.forward(images)[name])
    assert alone._network.count_params() == (7_635_264 if tap == "block4_pool" else 14_714_688)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_rows_features_do_not_depend_on_its_batch(images: Images, precision: str) -> None:
    backbone = load(precision)
    together = backbone.forward(images)["block5_pool"]
    assert backbone.forward(images[:0])["block5_pool"].shape == (0, 1, 1, 512)
    for rows in ([0], [4, 3], [2, 1, 0], [0, 1, 2, 3], [4, 4, 4, 4, 1, 2, 0, 3, 3]):
        np.testing.assert_array_equal(backbone.forward(images[rows])["block5_pool"], together[rows])
    other = load(precision, batch_size=3).forward(images)["block5_pool"]
    assert cosine(other, together).min() > 0.9999


def test_bfloat16_agrees_with_float32(vgg16: Backbone, images: Images) -> None:
    exact, fast = vgg16.forward(images), load("bfloat16", taps="block4_pool block5_pool").forward(images)
    for tap in ("block4_pool", "block5_pool"):
        assert cosine(exact[tap], fast[tap]).min() >= 0.999
        assert not np.array_equal(exact[tap], fast[tap])


def test_weights_are_those_of_the_seed_whatever_was_built_before(images: Images) -> None:
    """Keras numbers unnamed layers through the process; features and tap names must not see it."""
    first = load(backbone="mobilenetv3small", taps="activation_3 conv_1", image_size=48)
    second = load(backbone="mobilenetv3small", taps="activation_3 conv_1", image_size=48)
    for name, features in first.forward(images).items():
        np.testing.assert_array_equal(second.forward(images)[name], features)


def test_random_resnet50_stays_inside_float16(images: Images) -> None:
    backbone = load(backbone="ResNet50", taps="conv5_block3_out:avg conv2_block1_out", image_size=48)
    features = backbone.forward(images)
    assert backbone.taps == {"conv5_block3_out_avg": (2048,), "conv2_block1_out": (12, 12, 256)}
    for array in features.values():
        assert np.isfinite(array).all()
        assert 0.01 < array.astype(np.float32).std() < 1000
    rows = features["conv5_block3_out_avg"].astype(np.float32)
    assert np.abs(rows[0] - rows[1]).max() > 0.1


def test_networks_that_multiply_by_what_they_squeeze_are_settled_on_every_contrast() -> None:
    """Like a random EfficientNetB4, whose features of noise, and of a digit on white, went beyond float16."""
    import keras

    from featcache.features.network_weights import draw_he_normal, settle_normalisations

    def settled(*, steep: bool) -> Any:
        values = inputs = keras.Input((32, 32, 3))
        for number in range(4):
            convolution = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"convolution_{number}")
            values = keras.layers.ReLU()(keras.layers.BatchNormalization()(convolution(values)))
            values = keras.layers.Multiply()([values, keras.layers.GlobalAveragePooling2D(keepdims=True)(values)])
        model = keras.Model(inputs, values)
        draw_he_normal({layer.name: layer for layer in model.layers}, seed=0)
        settle_normalisations(model, 0, "tf", steep=steep)
        return model

    noise = np.random.default_rng(0).integers(0, 2, (2, 32, 32, 3)) * 2.0 - 1
    images = np.concatenate([noise, np.ones((1, 32, 32, 3)), -np.ones((1, 32, 32, 3))]).astype(np.float32)
    assert np.asarray(settled(steep=False)(images)).max() > 65504
    assert np.asarray(settled(steep=True)(images)).max() < 1000


def test_values_beyond_float16_come_out_infinite(tmp_path: Path, images: Images) -> None:
    import keras

    model = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.Rescaling(1000.0, name="scale")])
    model.save(tmp_path / "net.keras")
    backbone = load(backbone=str(tmp_path / "net.keras"), weights="auto", taps="scale")
    expected = images.astype(np.float32) * 1000
    np.testing.assert_array_equal(np.isinf(backbone.forward(images)["scale"]), expected >= 65520)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_where_enough_computing_is_to_come_weights_become_constants_images_stand_side_by_side_and_no_bit_changes(
    images: Images, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    loaded = load(precision, batch_size=4)
    expected = loaded.forward(images)["block5_pool"]
    before = loaded._program
    assert not loaded._settled
    monkeypatch.setattr(backbone, "_CONSTANT_SECONDS", 1e4)
    monkeypatch.setattr(side_by_side, "TOGETHER", 2)
    monkeypatch.setattr(backbone, "choose", lambda found, _: tried.extend(found) or found)
    tried = list[side_by_side.Convolution]()
    loaded.expect(2 * len(images))
    loaded.forward(images)
    assert loaded._program is before
    loaded.expect(10**9)
    loaded.forward(images)
    assert loaded._program is not before
    assert {each.shape for each in tried} >= {(4, 3, 3, 512), (4, 12, 12, 256)}
    np.testing.assert_array_equal(loaded.forward(images)["block5_pool"], expected)


def test_several_threads_may_compute_at_once(images: Images) -> None:
    backbone = load(batch_size=4)
    expected = [backbone.forward(np.roll(images, turn, axis=1))["block5_pool"] for turn in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda turn: backbone.forward(np.roll(images, turn, axis=1))["block5_pool"], range(8)))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 48, 48, 3), np.float32), np.zeros((48, 48, 3), np.uint8)]
)
def test_other_images_are_refused(vgg16: Backbone, wrong: Any) -> None:
    with pytest.raises(BackboneError, match=r"images of shape=.* are not \(b, 48, 48, 3\) uint8"):
        vgg16.forward(wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"taps": "block5_pol"}, "'block5_pol' is no layer of VGG16, did you mean block5_pool"),
        ({"taps": "qq"}, "'qq' is no layer of VGG16; its last ones are .*block5_conv3, block5_pool$"),
        ({"backbone": "vgg"}, "did you mean VGG1"),
        ({"image_size": 16}, "at least 32 pixels"),
    ],
)
def test_impossible_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message) as caught:
        load(**settings)
    assert "\n" not in str(caught.value)


# -- GPUs, as far as they can be pretended ------------------------------------------------------------------------

T4 = Device("Tesla T4", (7, 5), place="gpu:0")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> FeaturesSpec:
    """A network that loads in no time."""
    import keras

    path = tmp_path_factory.mktemp("tiny") / "net.keras"
    kernel = keras.initializers.GlorotUniform(1)
    keras.Sequential(
        [keras.Input((48, 48, 3)), keras.layers.Conv2D(64, 3, kernel_initializer=kernel, name="conv")]
    ).save(path)
    return FeaturesSpec(str(path), taps=(Tap("conv", "max"),))


def loaded(spec: FeaturesSpec, device: Device | None = None, batch_size: int = 4) -> Backbone:
    return load_backbone(spec, resolve_weights(spec, Silent()), "float32", batch_size, device)


def features_of(backbone: Backbone, images: Images) -> npt.NDArray[np.float16]:
    return backbone.forward(images)["conv_max"]


@pytest.mark.parametrize(
    ("free", "precision", "side", "expected"),
    [
        (80 << 30, "bfloat16", 224, 256),
        (15 << 30, "float16", 224, 128),
        (15 << 30, "float32", 224, 64),
        (3 << 30, "float32", 224, 16),
        (100 << 20, "float32", 224, 1),
        (80 << 30, "bfloat16", 48, 2048),
        (None, "float32", 224, 256),
    ],
)
def test_the_first_batch_fits_into_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: int | None, precision: str, side: int, expected: int
) -> None:
    monkeypatch.setattr(backbone, "free_bytes", lambda: free)
    assert backbone._batch_size(FeaturesSpec(image_size=side), precision, T4) == expected
    alike = FeaturesSpec(image_size=side, deterministic=True)
    assert backbone._batch_size(alike, precision, T4) == (64 if side == 224 else 1024)


def memory_errors() -> list[Exception]:
    """What TensorFlow raises when a GPU's memory is out."""
    from tensorflow import errors

    return [
        errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[256,64,224,224]"),
        errors.InternalError(None, None, "Dst tensor is not initialized."),
        errors.NotFoundError(None, None, "No algorithm worked!  Error messages: ..."),
        errors.FailedPreconditionError(None, None, "DNN library initialization failed. Look at the errors above."),
        errors.UnknownError(None, None, "CUDNN_STATUS_ALLOC_FAILED in tensorflow/stream_executor/cuda/cuda_dnn.cc"),
    ]


def inject(monkeypatch: pytest.MonkeyPatch, error: Exception, fitting: int) -> None:
    """Raise `error` in forward passes of more rows than are `fitting`."""
    compiled = backbone._compiled

    def scarce(network: Any, shape: tuple[int, ...], place: str, *, constant: bool) -> Any:
        def out_of_memory(batch: Images) -> Any:
            raise error

        return out_of_memory if shape[0] > fitting else compiled(network, shape, place, constant=constant)

    monkeypatch.setattr(backbone, "_compiled", scarce)


@pytest.mark.parametrize("number", range(5), ids=["exhausted", "copy", "algorithm", "cudnn", "allocation"])
def test_a_batch_that_does_not_fit_is_halved(
    tiny: FeaturesSpec, images: Images, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    expected = features_of(loaded(tiny), images)
    with monkeypatch.context() as patch:
        inject(patch, memory_errors()[number], fitting=1)
        poor = loaded(tiny)
        assert cosine(features_of(poor, images), expected).min() > 0.9999
        assert poor.batch_size == 1
    inject(monkeypatch, memory_errors()[number], fitting=0)
    with pytest.raises(BackboneError, match=r"image_size=48: the memory of .* is too small for one image.*nvidia-smi"):
        loaded(tiny).forward(images)


def test_another_error_is_none_of_memory(tiny: FeaturesSpec, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorflow import errors

    inject(monkeypatch, errors.InternalError(None, None, "CUDA_ERROR_ILLEGAL_ADDRESS"), fitting=0)
    poor = loaded(tiny)
    with pytest.raises(errors.InternalError):
        poor.forward(images)
    assert poor.batch_size == 4


@pytest.fixture
def card(tiny: FeaturesSpec, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[..., Backbone]]:
    """Pretends a GPU: programs that are compiled for it run on the processor, and return what `spoil` makes of it."""

    def pretend(records: Path, spoil: Callable[[Any], Any]) -> Callable[..., Backbone]:
        compiled, places = backbone._compiled, list[str]()

        def on_gpu(network: Any, shape: tuple[int, ...], place: str, *, constant: bool) -> Any:
            run = compiled(network, shape, "cpu:0", constant=constant)
            places.append(place)
            return run if place == "cpu:0" else lambda batch: {name: spoil(value) for name, value in run(batch).items()}

        monkeypatch.setattr(backbone, "_compiled", on_gpu)
        monkeypatch.setattr(backbone, "free_bytes", lambda: 1 << 20)
        monkeypatch.setattr(backbone.keras, "device", lambda place: contextlib.nullcontext())
        monkeypatch.setattr(self_check, "find_device", lambda: T4)

        def load_it(precision: str = "float32") -> tuple[Backbone, list[str]]:
            """The backbone, and for which places programs were compiled."""
            places.clear()
            found = self_check.load_checked(tiny, resolve_weights(tiny, Silent()), precision, records)
            return found, [*places]

        return load_it

    return pretend


def test_a_gpu_is_checked_once_and_then_trusted(tmp_path: Path, card: Any, tiny: FeaturesSpec, images: Images) -> None:
    load_it = card(tmp_path / "devices.json", lambda value: value)
    first, places = load_it("float16")
    assert (first.device, places) == (T4, ["cpu:0", "gpu:0"])
    assert load_it("float16")[1] == ["gpu:0"], "it is in the file"
    assert load_it("float32")[1] == ["cpu:0", "gpu:0"], "another network"
    assert cosine(features_of(first, images), features_of(loaded(tiny, processor()), images)).min() > 0.999


def broken(value: Any) -> Any:
    raise RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU:\nno kernel image is available")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda value: value * np.linspace(-1, 1, 64).astype(np.float16), r"has a cosine of -?0\.\d+ to float32"),
        (lambda value: value * np.float16(np.inf), "are not finite"),
        (broken, "RuntimeError: CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image"),
    ],
    ids=["other values", "infinite", "raises"],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_gpu_that_fails_its_check_is_left_for_the_processor(
    tmp_path: Path, card: Any, tiny: FeaturesSpec, images: Images, spoil: Any, why: str
) -> None:
    load_it, problem = card(tmp_path / "devices.json", spoil), f"Tesla T4 is not used: .*{why}.*: try a newer driver"
    for places in (["cpu:0", "gpu:0", "cpu:0"], ["cpu:0"]):  # it isn't tried again
        found, compiled = load_it()
        assert (found.device.capability, compiled) == (None, places)
        assert re.match(problem + r"[^\n]*devices\.json[^\n]*$", found.device.problem)
        np.testing.assert_array_equal(features_of(found, images), features_of(loaded(tiny, processor()), images))


def test_no_memory_in_the_check_is_no_fault_of_the_gpu(tmp_path: Path, card: Any) -> None:
    load_it = card(tmp_path / "devices.json", lambda value: (_ for _ in ()).throw(memory_errors()[1]))
    with pytest.raises(BackboneError, match=r"the memory of Tesla T4 is too small .* nvidia-smi"):
        load_it()
    assert not (tmp_path / "devices.json").exists()


def test_deterministic_algorithms_are_asked_for_on_gpus_alone(
    card: Any, tiny: FeaturesSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(backbone, "make_deterministic", lambda: asked.append("yes"))
    card(Path("none"), lambda value: value)
    for device, expected in ((processor(), []), (T4, ["yes"])):
        loaded(replace(tiny, deterministic=True), device)
        assert asked == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_operation_of_the_network_has_a_gpu_kernel(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By TensorFlow's registry, which in a wheel without CUDA holds none."""
    import tensorflow as tf
    from tensorflow.python.framework import kernels

    if not tf.test.is_built_with_cuda():
        pytest.skip("this TensorFlow has no GPU kernels")
    monkeypatch.setattr("featcache.features.network._fill_randomly", lambda *_: None)
    network = load(precision, batch_size=1)._network
    call = tf.function(lambda images: network(images, training=False))
    graph = call.get_concrete_function(tf.TensorSpec((1, 48, 48, 3), tf.uint8)).graph
    computed = {op.type: op for op in graph.get_operations() if "T" in op.node_def.attr and op.type != "Identity"}
    assert {"Conv2D", "BiasAdd", "Relu", "MaxPool"} <= set(computed)
    assert computed["Conv2D"].get_attr("T").name == precision
    for name, operation in computed.items():
        kernel_types = [
            set(constraint.allowed_values.list.type)
            for kernel in kernels.get_registered_kernels_for_op(name).kernel
            if kernel.device_type in ("GPU", "DEFAULT")
            for constraint in kernel.constraint
            if constraint.name == "T"
        ]
        assert operation.get_attr("T").as_datatype_enum in set().union(*kernel_types), name


@pytest.mark.shared
def test_the_genuine_weights_stay_inside_float16_and_close_to_float32(shared: Path) -> None:
    """Every convolution, of photos: T4, V100 and RTX 20 compute in float16."""
    paths = sorted((shared / "data/hymenoptera").rglob("*.jpg"))[:4]
    photos = np.stack([decode_rgb(path.read_bytes(), 96) for path in paths])
    weights, layers = str(shared / "weights/vgg16_imagenet_notop.h5"), (2, 2, 3, 3, 3)
    taps = [f"block{block}_conv{number + 1}:max" for block, count in enumerate(layers, 1) for number in range(count)]
    exact, half = (
        load(precision, weights=weights, image_size=96, taps=" ".join([*taps, "block5_pool:avg"])).forward(photos)
        for precision in ("float32", "float16")
    )
    assert max(float(values.max()) for values in exact.values()) < np.finfo(np.float16).max / 2
    for tap in exact:
        assert cosine(half[tap], exact[tap]).min() > 0.9999, tap


# -- weights files ------------------------------------------------------------------------------------------------


def keras_vgg16(**settings: Any) -> Any:
    import keras

    return keras.applications.VGG16(weights=None, **{"include_top": False, "input_shape": (32, 32, 3), **settings})


@pytest.mark.parametrize("name", ["mine.h5", "mine.weights.h5"])
def test_a_weights_file_of_keras_is_loaded(tmp_path: Path, images: Images, name: str) -> None:
    import keras

    model = keras_vgg16(input_shape=(48, 48, 3))
    if name == "mine.h5":
        from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

        with h5py.File(tmp_path / name, "w") as file:
            save_weights_to_hdf5_group(file, model)
    else:
        model.save_weights(tmp_path / name)
    expected = model(keras.applications.vgg16.preprocess_input(images.astype(np.float32)))
    features = load(weights=str(tmp_path / name)).forward(images)["block5_pool"]
    np.testing.assert_allclose(features, np.asarray(expected), rtol=2e-3, atol=1e-3)


def other_architecture(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["block1_conv1"]
        file.create_group("block1_conv1").attrs["weight_names"] = ["kernel:0", "bias:0"]
        file["block1_conv1/kernel:0"] = np.zeros((3, 3, 3, 32), np.float32)
        file["block1_conv1/bias:0"] = np.zeros(32, np.float32)


def layers_of(count: int) -> Callable[[Path], None]:
    """A notop file of VGG16 with `count` layers, in Keras 2's layout."""

    def write(path: Path) -> None:
        model = keras_vgg16()
        layers = [(layer.name, layer.get_weights()) for layer in model.layers if layer.weights]
        layers.append(("fc1", [np.zeros((2, 3), np.float32)]))
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [name.encode() for name, _ in layers[:count]]
            for name, arrays in layers[:count]:
                group = file.create_group(name)
                group.attrs["weight_names"] = [f"w{place}".encode() for place in range(len(arrays))]
                for place, array in enumerate(arrays):
                    group[f"w{place}"] = array

    return write


def missing_array(path: Path) -> None:
    layers_of(13)(path)
    with h5py.File(path, "r+") as file:
        del file["block1_conv1/w0"]


def truncated(path: Path) -> None:
    layers_of(13)(path)
    path.write_bytes(path.read_bytes()[:100_000])


def plain_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = np.zeros(3)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            other_architecture,
            r"'block1_conv1' has shapes \[\(3, 3, 3, 32\), \(32,\)\], layer block1_conv1 needs \[\(3, 3, 3, 64\), \(64,\)\]",
        ),
        (layers_of(12), "12 layers with weights, not 13$"),
        (layers_of(14), "14 layers with weights, not 13, first 'fc1' .*classifier on top"),
        (missing_array, "can't be read as a Keras HDF5 weights file"),
        (truncated, "can't be read as a Keras HDF5 weights file"),
        (plain_hdf5, "holds no Keras weights"),
        (lambda path: path.write_bytes(b"<html>sign in</html>"), "is a page of HTML"),
        (lambda path: path.write_bytes(b""), "is empty"),
    ],
    ids=["other", "too few", "with top", "missing", "truncated", "plain", "html", "empty"],
)
def test_a_wrong_weights_file_is_one_line(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "mine.h5"
    write(path)
    with pytest.raises(WeightsError, match=message) as caught:
        load(weights=str(path), image_size=32)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["vgg19.weights.h5", "renamed.h5"])
def test_weights_of_keras_3_that_do_not_fit(tmp_path: Path, name: str) -> None:
    import keras

    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)]).save_weights(tmp_path / "a.weights.h5")
    (tmp_path / "a.weights.h5").rename(tmp_path / name)
    message = "does not fit VGG16 without top" if "weights" in name else r"rename it to end in \.weights\.h5"
    with pytest.raises(WeightsError, match=message) as caught:
        load(weights=str(tmp_path / name), image_size=32)
    assert "\n" not in str(caught.value)


@pytest.mark.shared
def test_the_shared_weights_load_and_tell_images_apart(shared: Path, images: Images) -> None:
    backbone = load("bfloat16", weights=str(shared / "weights" / "vgg16_imagenet_notop.h5"), taps="block5_pool:avg")
    features = backbone.forward(images)["block5_pool_avg"].astype(np.float32)
    assert (features > 0).mean() > 0.01
    assert np.abs(features[0] - features[1]).max() > 0


# -- a user's own model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_users_model_is_a_backbone(tmp_path: Path, images: Images, precision: str) -> None:
    import keras

    path = tmp_path / "net.keras"
    inputs = keras.Input((None, None, 3))
    hidden = keras.layers.Conv2D(4, 3, activation="relu", name="first")(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D(name="pooled")(hidden)))
    model.save(path)
    backbone = load(precision, backbone=str(path), weights="auto", taps="pooled first:max")
    assert backbone.taps == {"pooled": (4,), "first_max": (4,)}
    expected = keras.Model(inputs, model.get_layer("pooled").output)(images.astype(np.float32))
    tolerance = 2e-3 if precision == "float32" else 2e-2
    np.testing.assert_allclose(backbone.forward(images)["pooled"], np.asarray(expected), rtol=tolerance, atol=tolerance)


def test_the_output_of_a_network_is_a_tap(tmp_path: Path, images: Images) -> None:
    import keras

    vgg = load(taps="output output:avg block5_pool").forward(images)
    np.testing.assert_array_equal(vgg["output"], vgg["block5_pool"])
    assert vgg["output_avg"].shape == (len(images), 512)
    path = tmp_path / "net.keras"
    inputs = keras.Input((None, None, 3))
    first = keras.layers.Conv2D(4, 3, name="first")(inputs)
    vector = keras.layers.GlobalMaxPooling2D(name="last")(first)
    keras.Model(inputs, vector).save(path)
    features = load(backbone=str(path), weights="auto", taps="output:avg output last").forward(images)
    np.testing.assert_array_equal(features["output_avg"], features["last"])  # a vector is pooled already
    np.testing.assert_array_equal(features["output"], features["last"])
    keras.Model(inputs, keras.layers.GlobalMaxPooling2D()(keras.layers.ReLU(name="output")(first))).save(path)
    assert load(backbone=str(path), weights="auto", taps="output").taps == {"output": (46, 46, 4)}, "the layer's name"
    keras.Model(inputs, [first, vector]).save(path)
    with pytest.raises(BackboneError, match=r"'output:avg' has several outputs, not \(h, w, c\) or \(c,\)"):
        load(backbone=str(path), weights="auto", taps="output:avg")


def test_models_that_can_not_be_backbones(tmp_path: Path) -> None:
    import keras

    path = tmp_path / "net.keras"
    keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Flatten(name="flat")]).save(path)
    with pytest.raises(BackboneError, match=r"image_size=48: the input of .* is 64 x 64 pixels: set that size"):
        load(backbone=str(path), weights="auto", taps="flat")
    with pytest.raises(BackboneError, match=r"'flat:avg' has shape \(12288,\), not \(h, w, c\)"):
        load(backbone=str(path), weights="auto", taps="flat:avg", image_size=64)
    keras.Sequential([keras.Input((7,)), keras.layers.Dense(2, name="dense")]).save(path)
    with pytest.raises(BackboneError, match=r"inputs of shapes \[\(None, 7\)\], not one of \(None, side, side, 3\)"):
        load(backbone=str(path), weights="auto", taps="dense")
    path.write_bytes(b"no zip")
    with pytest.raises(BackboneError, match=r"is no \.keras archive") as caught:
        load(backbone=str(path), weights="auto", taps="dense")
    assert "\n" not in str(caught.value)


def test_code_inside_a_model_is_not_run(tmp_path: Path) -> None:
    import keras

    path = tmp_path / "net.keras"
    keras.Sequential([keras.Input((48, 48, 3)), keras.layers.Lambda(lambda x: x + 1, name="code")]).save(path)
    with pytest.raises(BackboneError, match="can't be loaded as a Keras model"):
        load(backbone=str(path), weights="auto", taps="code")


def test_maps_are_what_taps_pool_over(images):
    plain = load("float32", 1, taps="block1_pool:avg block1_pool:max block2_pool:avg", image_size=48)
    joined = plain.with_maps(["block1_pool_avg", "block1_pool_max"], 1)
    features, found = (each.forward(images[:1]) for each in (plain, joined))
    assert list(plain.taps) == list(features) == ["block1_pool_avg", "block1_pool_max", "block2_pool_avg"]
    assert set(joined.taps) == {each for tap in plain.taps if "block1" in tap for each in (tap, map_name(tap))}
    for tap, pool in (("block1_pool_avg", np.mean), ("block1_pool_max", np.max)):
        pooled = pool(found[map_name(tap)].astype(np.float32), axis=(1, 2))
        assert np.array_equal(found[tap], features[tap])
        assert np.allclose(pooled, features[tap], rtol=2e-3, atol=1e-3)


def test_a_network_with_maps_is_the_same_one(images):
    """Its layers are shared, so that nothing is loaded again."""
    plain = load("float32", taps="block1_pool:avg", image_size=48)
    joined = plain.with_maps(plain.taps, 1)._network
    assert joined is not plain._network
    assert all(mine is other for mine, other in zip(plain._network.weights, joined.weights, strict=True))


@pytest.mark.parametrize(
    ("rows", "most", "expected"), [(1, 8, 1), (3, 8, 2), (16, 8, 8), (17, 8, 5), (24, 8, 6), (24, 64, 12)]
)
def test_few_rows_are_dealt_out_evenly_to_two_passes_at_once(rows, most, expected):
    loaded = load("float32", most, taps="block1_pool:avg", image_size=48)
    assert loaded.with_maps(loaded.taps, rows).batch_size == expected
