"""Convolutions of images side by side: the same bits as plain ones, and taken where they are faster and nowhere else."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from featcache.core.progress import Silent  # noqa: E402  # after importorskip
from featcache.features import backbone, side_by_side  # noqa: E402
from featcache.features.backbone import Backbone, _compiled, load_backbone  # noqa: E402
from featcache.features.side_by_side import Convolution, choose, noticed, same_bytes  # noqa: E402
from featcache.features.weights import resolve_weights  # noqa: E402
from featcache.settings.specs import FeaturesSpec, Tap  # noqa: E402

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow's programs are compiled twice"),
    # Keras reads TensorFlow's variables through a protocol that NumPy 2 wants otherwise; it happens where these tests save
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]
SIDE = 6


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> FeaturesSpec:
    """A network with layers that may work on images side by side, in a model in a model, and with some that may not."""
    layers = keras.layers
    keras.utils.set_random_seed(3)
    pixels = inner = keras.Input((SIDE, SIDE, 4))
    inner = layers.Conv2D(8, 5, padding="same", activation="relu", name="five")(inner)
    inner = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(inner)
    nested = keras.Model(pixels, inner, name="nested")
    images = values = keras.Input((SIDE, SIDE, 3))
    values = layers.Conv2D(4, 1, name="one")(values)
    values = nested(values)
    values = layers.BatchNormalization(name="normal")(layers.Conv2D(8, (1, 3), padding="same", name="flat")(values))
    values = layers.Conv2D(8, 3, padding="same", dilation_rate=2, name="dilated")(values)
    twice = layers.Conv2D(8, 3, padding="same", name="twice")
    values = twice(twice(values))
    values = layers.Conv2D(8, 3, padding="same", strides=2, name="stride")(values)
    values = layers.Conv2D(8, 4, padding="same", groups=2, name="four")(values)
    values = layers.Conv2D(8, 3, padding="valid", name="valid")(values)
    path = tmp_path_factory.mktemp("own") / "net.keras"
    keras.Model(images, values).save(path)
    return FeaturesSpec(str(path), taps=(Tap("four"), Tap("valid")), image_size=SIDE)


def load(spec: FeaturesSpec, precision: str = "float32", batch_size: int = 32) -> Backbone:
    return load_backbone(spec, resolve_weights(spec, Silent()), precision, batch_size)


def images_of(loaded: Backbone, rows: int = 40) -> Any:
    return np.random.default_rng(5).integers(0, 256, (rows, *loaded._image_shape), np.uint8)


def found_in(loaded: Backbone, rows: int = 32) -> list[Convolution]:
    with noticed(loaded._network) as found:
        loaded._compile(rows, constant=True)
    return found


def names(found: list[Convolution]) -> list[str]:
    return [each.layer.name for each in found]


def ticking(*seconds: float) -> Iterator[float]:
    """What a clock shows if what is timed takes these in turn, again and again."""
    return itertools.accumulate(itertools.chain.from_iterable((0, taken) for taken in itertools.cycle(seconds)))


def compiled(each: Convolution) -> Any:
    return _compiled(each.layer, each.shape, "cpu:0", constant=True, dtype=each.dtype)


def test_layers_that_keep_the_size_and_look_beyond_a_column_may_work_side_by_side(own: FeaturesSpec) -> None:
    loaded = load(own)
    expected = {"five": (32, 6, 6, 4), "depthwise": (32, 6, 6, 8), "flat": (32, 6, 6, 8), "four": (32, 3, 3, 8)}
    assert {each.layer.name: each.shape for each in found_in(loaded)} == expected
    assert found_in(loaded, 8) == [], "too few images, as there are of 224 pixels"


def test_wide_images_are_left_alone() -> None:
    images = keras.Input((25, 25, 3))
    wide = keras.Model(images, keras.layers.Conv2D(2, 3, padding="same")(images))
    with noticed(wide) as found:
        wide(np.zeros((16, 25, 25, 3)))
    assert found == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_kind_of_layer_gives_the_same_values_also_in_a_partial_batch(
    own: FeaturesSpec, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, made = load(own, precision), list[Any]()
    images, found, compile_it = images_of(loaded), found_in(loaded), loaded._compile
    expected = loaded.forward(images)
    known = {each.layer: (each.layer.get_config(), each.layer.output, dir(each.layer)) for each in found}
    monkeypatch.setattr(loaded, "_compile", lambda rows, **how: made.append(compile_it(rows, **how)) or made[-1])
    monkeypatch.setattr(backbone, "choose", lambda *_: found)
    loaded.settle()
    for name, values in made[-1].run(images[:32]).items():  # whether each sum has the same order is up to the processor
        np.testing.assert_allclose(values, expected[name][:32], rtol=0.02, atol=0.02 * np.abs(expected[name]).max())
    used = [program.run for program in made]
    assert loaded._program.run in used, "constant kernels alone change no bit"
    assert same_bytes(loaded.forward(images), expected)
    assert same_bytes(loaded.forward(images[:1]), {name: rows[:1] for name, rows in expected.items()})
    assert known == {layer: (layer.get_config(), layer.output, dir(layer)) for layer in known}


def test_the_faster_way_is_chosen_if_no_bit_differs(own: FeaturesSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [each for each in found_in(load(own)) if each.layer.name in ("flat", "four")]
    assert names(choose(found, compiled, ticking(2, 1).__next__)) == ["four", "flat"]
    assert choose(found, compiled, ticking(1, 1).__next__) == []
    tried = list[str]()

    def other_bits(each: Convolution) -> Any:
        tried.append(each.layer.name)
        run = compiled(each)
        return (lambda images: run(images) * 2) if tried.count("four") == 2 and each.layer.name == "four" else run

    assert names(choose(found, other_bits, ticking(2, 1).__next__)) == ["flat"], "wider ones are tried all the same"
    tried.clear()
    assert choose(found, other_bits, ticking(1, 2).__next__) == []
    assert set(tried) == {"four"}, "nothing wider is tried where the narrowest is not faster"


def test_a_network_whose_bits_change_stays_as_it_is(own: FeaturesSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, made = load(own), list[Any]()
    expected, found = loaded.forward(images_of(loaded)), found_in(loaded)
    honest = loaded._compile

    def other_bits(rows: int, *, constant: bool = False) -> Any:
        program = honest(rows, constant=constant)
        made.append(program)
        return program._replace(run=lambda images: {name: out * 1.01 for name, out in program.run(images).items()})

    monkeypatch.setattr(loaded, "_compile", other_bits)
    monkeypatch.setattr(backbone, "choose", lambda *_: found)
    before = loaded._program
    loaded.settle()
    assert (loaded._program, loaded.side_by_side, len(made)) == (before, (), 2)
    assert same_bytes(loaded.forward(images_of(loaded)), expected)


def test_layers_called_on_other_shapes_are_plain(own: FeaturesSpec) -> None:
    loaded = load(own)
    five = next(each for each in found_in(loaded) if each.layer.name == "five")
    values = np.ones((3, SIDE, SIDE, 4), np.float32)
    expected = five.layer(values)
    with side_by_side.side_by_side([five]):
        assert same_bytes(five.layer(values), expected)


def test_constant_kernels_change_no_bit_where_a_normalisation_follows() -> None:
    """TensorFlow multiplies a constant kernel by what is constant behind it, and sums are then rounded otherwise."""
    images = keras.Input((SIDE, SIDE, 4))
    normal = keras.layers.BatchNormalization()
    network = keras.Model(images, normal(keras.layers.Conv2D(8, 3, use_bias=False)(images)))
    normal.set_weights([np.linspace(low, 3, 8) for low in (0.3, -1, -2, 0.1)])
    values = np.random.default_rng(5).standard_normal((4, SIDE, SIDE, 4), np.float32)
    plain, constant = (
        _compiled(network, values.shape, "cpu:0", constant=way, dtype="float32") for way in (False, True)
    )
    assert same_bytes(plain(values), constant(values))
