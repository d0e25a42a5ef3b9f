"""Presets of KerasHub as backbones, saved here with random weights; skipped where KerasHub is not installed."""

import shutil

import numpy as np
import pytest

from featcache.core.progress import Silent
from featcache.errors import BackboneError, WeightsError
from featcache.features import weights
from featcache.features.weights import known_digest, resolve_weights
from featcache.settings.architectures import backbone_settings
from featcache.settings.parsing import parse_settings
from featcache.settings.specs import FeaturesSpec, Tap

SIDE = 32


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A ViT with class token, a DINOv2 with registers too, a SigLIP, which reads texts as well, and a ResNet."""
    hub, folder = (
        pytest.importorskip("keras_hub", reason="pip install 'featcache[hub]'"),
        tmp_path_factory.mktemp("presets"),
    )
    shape = {"image_shape": (SIDE, SIDE, 3)}
    small = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    texts = hub.models.SigLIPTextEncoder(vocabulary_size=8, embedding_dim=8, max_sequence_length=4, **small)
    networks = {
        "siglip": hub.models.SigLIPBackbone(hub.models.SigLIPVisionEncoder(patch_size=8, **small, **shape), texts),
        "vit": hub.models.ViTBackbone(patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, **shape),
        "dino": hub.models.DINOV2Backbone(num_register_tokens=2, position_embedding_shape=(SIDE, SIDE, 3), patch_size=8, **small, **shape),
        "resnet": hub.models.ResNetBackbone(
            input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64], stackwise_num_blocks=[1, 1],
            stackwise_num_strides=[1, 2], block_type="basic_block", image_shape=(None, None, 3),
        ),
    }  # fmt: skip
    kinds = {"siglip": "SigLIP", "vit": "ViT", "dino": "DINOV2", "resnet": "ResNet"}
    for name, network in networks.items():
        network.save_to_preset(str(folder / name))
        options = {"image_size": (SIDE, SIDE), "scale": [1 / 127.5, 1 / 255, 2.0], "offset": [-1.0, 0.0, 3.0]}
        getattr(hub.layers, f"{kinds[name]}ImageConverter")(**options).save_to_preset(str(folder / name))
    return folder, networks


def features_of(folder, images, *taps, side=SIDE, precision="float32"):
    from featcache.features.backbone import load_backbone

    spec = FeaturesSpec(f"hub:{folder}", "auto", tuple(map(Tap.parse, taps)), side)
    return load_backbone(spec, resolve_weights(spec, Silent()), precision, batch_size=2).forward(images)


def seen(images):
    return images * np.array([1 / 127.5, 1 / 255, 2], np.float32) + np.array([-1, 0, 3], np.float32)


@pytest.mark.parametrize(("name", "extra"), [("vit", 1), ("dino", 3)])
def test_tokens_are_the_class_token_and_the_mean_of_the_patches(presets, name, extra):
    folder, networks = presets
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    pixels = seen(images) if name == "vit" else {"images": seen(images)}
    tokens = np.asarray(networks[name](pixels, training=False))
    assert tokens.shape[1:] == (16 + extra, 8)
    found = features_of(folder / name, images, "output:avg", "output:max")
    for pooling, pooled in (("avg", np.mean), ("max", np.max)):
        expected = np.concatenate([tokens[:, 0], pooled(tokens[:, extra:], axis=1)], axis=-1)
        np.testing.assert_allclose(found[f"output_{pooling}"], expected, atol=5e-3)
    halves = features_of(folder / name, images, "output:avg", precision="bfloat16")["output_avg"]
    np.testing.assert_allclose(halves, found["output_avg"], atol=0.1)


def test_of_a_network_that_reads_texts_too_the_vector_of_an_image_is_taken(presets):
    folder, networks = presets
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    expected = np.asarray(networks["siglip"].vision_encoder({"images": seen(images)}, training=False))
    found = features_of(folder / "siglip", images, "output:avg", "output:max")
    assert found["output_avg"].shape == (2, 8)
    for values in found.values():
        np.testing.assert_allclose(values, expected, atol=5e-3)


def test_a_convolutional_preset_takes_any_size(presets):
    folder, networks = presets
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    expected = np.asarray(networks["resnet"](seen(images), training=False)).mean(axis=(1, 2))
    np.testing.assert_allclose(
        features_of(folder / "resnet", images, "output:avg", side=48)["output_avg"], expected, rtol=1e-2
    )


def test_what_a_preset_cannot_do_is_one_line(presets):
    folder, _ = presets
    images = np.zeros((1, 48, 48, 3), np.uint8)
    with pytest.raises(BackboneError, match="vit can't be loaded at 48 pixels"):
        features_of(folder / "vit", images, "output:avg", side=48)
    with pytest.raises(BackboneError, match="'output' has shape"):
        features_of(folder / "vit", images[:, :SIDE, :SIDE], "output")


def test_its_files_are_its_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: name)
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("config.json", "model.weights.h5", "image_converter.json", "README.md"):
        (folder / name).write_text(name)
    spec = FeaturesSpec(f"hub:{folder}")
    assert spec.label == "mine@48"
    assert backbone_settings(spec)["backbone"] == "preset"
    resolved = resolve_weights(spec, Silent())
    assert (resolved.kind, resolved.path) == ("preset", folder)
    record = resolved.record(spec)
    assert known_digest(spec, record) == resolved.digest
    (folder / "README.md").write_text("other")
    assert known_digest(spec, None) == resolved.digest
    (folder / "image_converter.json").write_text("other pixels")
    assert known_digest(spec, record) not in (None, resolved.digest)
    shutil.rmtree(folder)
    assert known_digest(spec, record) == resolved.digest


def test_without_keras_hub_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"hub:dinov2_small needs KerasHub: pip install 'featcache\[hub\]'"):
        resolve_weights(FeaturesSpec("hub:dinov2_small"), Silent())


def test_presets_stand_among_others():
    texts = {"backbone": "vgg16, hub:dinov2_small@98, hub:/some/folder", "weights": "imagenet", "image_size": "64"}
    specs = parse_settings({"Features": texts}).backbones
    assert [(spec.label, spec.weights) for spec in specs] == [
        ("vgg16@64", "imagenet"),
        ("dinov2_small@98", "auto"),
        ("folder@64", "auto"),
    ]
