import configparser
import itertools
from pathlib import Path

import pytest

from featcache.errors import SettingsError
from featcache.project import open_project
from featcache.settings.parsing import SECTIONS, parse_settings
from featcache.settings.schedules import Phase
from featcache.settings.specs import (
    ClusterSpec,
    ConvNetSpec,
    DatasetSpec,
    EnsembleSpec,
    FeaturesSpec,
    HeadsSpec,
    SubmissionSpec,
    Tap,
)

ROOT = Path(__file__).parent.parent


def read(path):
    parser = configparser.ConfigParser()
    parser.read_string(path.read_text())
    return {name: dict(parser[name]) for name in parser.sections()}


def test_defaults_are_those_of_the_specs():
    settings = parse_settings({})
    assert settings.dataset == DatasetSpec()
    assert settings.features == FeaturesSpec()
    assert settings.heads == HeadsSpec()
    assert settings.convnet == ConvNetSpec()
    assert settings.ensemble == EnsembleSpec()
    assert settings.submission == SubmissionSpec()
    assert settings.cluster == ClusterSpec()
    assert settings.folder == Path("artifacts/digits").absolute()


def test_luigi_cfg_shows_every_key_with_its_default_and_a_comment():
    shown = read(ROOT / "luigi.cfg")
    ours = {name: values for name, values in shown.items() if name[0].isupper()}
    assert ours == {name: {key: s.default for key, s in keys.items()} for name, keys in SECTIONS.items()}
    lines = (ROOT / "luigi.cfg").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line.split("=")[0].strip() in {key for keys in SECTIONS.values() for key in keys}:
            assert before.startswith("#"), f"{line!r} has no comment above it"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.cfg")), ids=lambda path: path.stem)
def test_examples_are_sound(path):
    settings = parse_settings(read(path))
    assert settings.dataset.name == path.stem
    assert path.read_text().startswith("#")


def test_values_are_read():
    settings = parse_settings(
        {
            "Features": {"taps": "block4_pool, block5_pool:avg", "image-size": "96", "copies": "2"},
            "Heads": {"schedule": "1e-3x1, 1e-2x2,1e-4X8", "hidden": "64", "dropout": "0.5"},
            "ConvNet": {"members": "2", "schedule": "1e-3x1, one-cycle 3e-3x12"},
            "Submission": {"clip": "0.93", "gzip": "Yes", "columns": "img, c0, c1"},
        }
    )
    assert settings.features.taps == (Tap("block4_pool"), Tap("block5_pool", "avg"))
    assert (settings.features.image_size, settings.features.copies) == (96, 2)
    assert settings.heads.schedule == (Phase(1e-3, 1), Phase(1e-2, 2), Phase(1e-4, 8))
    assert (settings.heads.hidden, settings.heads.dropout) == ((64,), 0.5)
    assert settings.convnet.members == 2
    assert settings.convnet.schedule == (Phase(1e-3, 1), Phase(3e-3, 12, "one-cycle"))
    assert (settings.submission.clip, settings.submission.gzip) == (0.93, True)
    assert settings.submission.columns == ("img", "c0", "c1")


@pytest.mark.parametrize(("source", "side"), [("digits", 48), ("csv", 48), ("idx", 48), ("folder", 224)])
def test_an_image_size_that_is_auto_follows_from_the_source(source, side):
    dataset = {"source": source} | ({"name": "mine", "path": "x"} if source != "digits" else {})
    assert parse_settings({"Dataset": dataset}).features.image_size == side
    assert parse_settings({"Dataset": dataset, "Features": {"image_size": " AUTO "}}).features.image_size == side
    assert parse_settings({"Dataset": dataset, "Features": {"image_size": "64"}}).features.image_size == 64
    assert parse_settings({"Dataset": dataset, "Features": {"backbone": "Xception"}}).features.image_size == max(
        71, side
    )
    assert parse_settings({"Dataset": dataset, "Features": {"backbone": "a.keras"}}).features.image_size == side


POOLED = tuple(Tap(f"block{block}_pool", pooling) for block in (3, 4, 5) for pooling in ("avg", "max"))


@pytest.mark.parametrize(
    ("backbone", "preset", "taps"),
    [
        ("vgg16", "default", POOLED),
        ("VGG19", "fast", POOLED),
        ("resnet50", "default", (Tap("output", "avg"),)),
        ("mine/net.keras", "default", (Tap("output", "avg"),)),
        ("vgg16", "recipe", (Tap("block5_pool"),)),
        ("VGG19", "wide", (Tap("block5_pool"),)),
        ("resnet50", "recipe", (Tap("output"),)),
        ("mine/net.keras", "wide", (Tap("output"),)),
    ],
)
def test_taps_that_are_auto_follow_from_backbone_and_preset(backbone, preset, taps):
    sections = {"Features": {"backbone": backbone, "image_size": "96"}, "Heads": {"preset": preset}}
    assert parse_settings(sections).features.taps == taps
    sections["Features"]["taps"] = "Auto"
    assert parse_settings(sections).features.taps == taps
    sections["Features"]["taps"] = "first:max"
    assert parse_settings(sections).features.taps == (Tap("first", "max"),), "explicit taps win"
    if preset == "default":
        assert FeaturesSpec(backbone).taps == taps


def test_schedules_are_phases_of_a_shape():
    heads = parse_settings({"Heads": {"schedule": "1e-3x1, Cosine 3e-3x20,one-cycle  1e-2x5"}}).heads
    assert heads.schedule == (Phase(1e-3, 1), Phase(3e-3, 20, "cosine"), Phase(1e-2, 5, "one-cycle"))
    assert parse_settings({"Heads": {"schedule": ", ".join(map(str, heads.schedule))}}).heads == heads
    assert HeadsSpec(schedule=((1e-3, 1),)).schedule == (Phase(1e-3, 1),)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("Features", "image_size", "big", r"\[Features\] image_size='big' is not auto or a whole number"),
        ("Features", "image_size", "4.5", "whole number"),
        ("Features", "image_size", "0", "at least 1"),
        (
            "Features",
            "image_fit",
            "letterbox",
            r"\[Features\] image_fit='letterbox' is unknown; known: stretch, crop, pad",
        ),
        ("Features", "copies", "-1", "at least 0"),
        ("Features", "augmentation", "rotate 5", "augmentation: 'rotate 5' is unknown; known: rotation N, "),
        ("Features", "augmentation", "zoom", "'zoom' is unknown"),
        ("Features", "augmentation", "flip 1", "'flip 1' is unknown"),
        ("Features", "augmentation", "zoom much", "'zoom much' has no number after zoom"),
        ("Features", "augmentation", "rotation 200", "rotation=200.0 is out of range: 0 <= rotation <= 180"),
        ("Features", "taps", "", "names no layer"),
        ("Features", "taps", "block5_pool:mean", "taps='mean' is unknown; known: avg, max"),
        ("Features", "taps", "block5_pool, block5_pool", "names a tap twice"),
        ("Features", "taps", "../x", "layer's name"),
        ("Features", "precision", "bfloat", "did you mean bfloat16"),
        ("ConvNet", "members", "-1", "at least 0"),
        ("ConvNet", "image_size", "15", r"\[ConvNet\] image_size=15 is out of range: at least 16"),
        ("ConvNet", "schedule", "1e-3", "RATExEPOCHS phases such as"),
        ("ConvNet", "schedule", "two-cycle 1e-3x2", "RATExEPOCHS phases such as"),
        ("ConvNet", "schedule", "1e-3x0", "0.001x0' is out of range: rates above 0 and epochs of at least 1"),
        ("ConvNet", "batch_size", "1", "at least 2"),
        ("ConvNet", "precision", "float16", "did you mean bfloat16"),
        ("Dataset", "source", "foldr", "did you mean folder"),
        ("Dataset", "source", "folder", "path is missing: source='folder' needs the folder of the images"),
        (
            "Dataset",
            "path",
            "photos",
            r"\[Dataset\] source='digits' has no path, but path='photos' is set: choose folder, table, csv",
        ),
        ("Dataset", "name", "../up", "letters, digits"),
        ("Dataset", "name", "", "letters, digits"),
        ("Dataset", "groups", "drivers.csv", "FILE:COLUMN"),
        ("Dataset", "sample_submission", "nowhere.csv", "is not there"),
        ("Heads", "preset", "recipy", "did you mean recipe"),
        ("Heads", "dropout", "1", "0 <= dropout < 1"),
        ("Heads", "dropout", "some", "is not a number"),
        ("Heads", "hidden", "128;128", "a list of widths such as"),
        ("Heads", "schedule", "1e-3", "RATExEPOCHS"),
        ("Heads", "schedule", "cosinus 1e-3x4", "cosine 3e-3x20"),
        ("Heads", "schedule", "0x3", "rates above 0"),
        ("Heads", "weight_decay", "-1", "0 or more"),
        ("Heads", "label_smoothing", "1", "0 <= label_smoothing < 1"),
        ("Heads", "early_stop", "-1", "at least 0"),
        ("Heads", "early_stop", "soon", "a whole number"),
        ("Heads", "schedule", "nanx3", "rates above 0"),
        ("Heads", "folds", "1", "at least 2"),
        ("Heads", "seeds", "0", "at least 1"),
        ("Heads", "batch_size", "1", "at least 2"),
        (
            "Ensemble",
            "method",
            "median",
            r"\[Ensemble\] method=\'median\' is unknown.*; known: auto, weighted, mean, geometric, greedy",
        ),
        ("Submission", "format", "label", "did you mean labels"),
        ("Submission", "clip", "1.5", r"in \(0, 1\]"),
        ("Submission", "clip", "yes", "auto, none or a number"),
        ("Submission", "gzip", "maybe", "true or false"),
        ("Submission", "columns", "id", "at least one more"),
        ("Cluster", "scheduler", "locl", "scheduler='locl' is not none, local, tcp://HOST:PORT or tls://HOST:PORT"),
        ("Cluster", "scheduler", "tcp://host", "scheduler='tcp://host' is not"),
        ("Cluster", "workers", "-1", "at least 0"),
        ("Cluster", "threads", "two", "a whole number"),
        ("Paths", "artifacts", "", "names no folder"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_section_and_key(section, key, value, message):
    with pytest.raises(SettingsError, match=message) as caught:
        open_project({section: {key: value}})
    assert "\n" not in str(caught.value)
    assert f"[{section}]" in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"Feature": {}}, r"unknown section \[Feature\], did you mean \[Features\]"),
        ({"features": {}}, r"unknown section \[features\], did you mean \[Features\]"),
        ({"Zebra": {}}, r"unknown section \[Zebra\]; known: Dataset"),
        ({"Features": {"image_sise": "48"}}, "unknown key 'image_sise', did you mean image_size"),
        ({"Heads": {"zebra": ""}}, "unknown key 'zebra'; known: preset"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(sections, message):
    with pytest.raises(SettingsError, match=message):
        parse_settings(sections)


@pytest.mark.parametrize("source", ["folder", "csv", "idx"])
def test_ones_own_images_need_a_name_of_their_own(source):
    texts = {"source": source, "path": "x"}
    for named in ({}, {"name": "digits"}):
        with pytest.raises(
            SettingsError,
            match=r"\[Dataset\] name=\'digits\' belongs to the embedded digits, not to source=.*--Dataset-name",
        ):
            parse_settings({"Dataset": texts | named})
    assert parse_settings({"Dataset": texts | {"name": "mine"}}).dataset.name == "mine"


def test_a_cluster_is_named_by_word_or_address():
    for text, expected in [("None", "none"), (" LOCAL ", "local"), ("tcp://Node1:8786", "tcp://Node1:8786"),
                           ("tls://[::1]:8786", "tls://[::1]:8786")]:  # fmt: skip
        assert parse_settings({"Cluster": {"scheduler": text}}).cluster.scheduler == expected
    with pytest.raises(SettingsError, match=r"\[Cluster\] threads must be 0 for scheduler='tcp://a:1': set it where"):
        parse_settings({"Cluster": {"scheduler": "tcp://a:1", "threads": "2"}})


def test_luigis_own_sections_are_left_alone():
    assert parse_settings({"core": {"local_scheduler": "true"}, "retcode": {}}) == parse_settings({})


def test_the_sample_submission_of_the_data_sets_folder_is_found(tmp_path):
    sample = tmp_path / "sample_submission.csv.gz"
    sample.write_bytes(b"")
    values = {"name": "photos", "source": "folder", "path": str(tmp_path)}
    assert open_project({"Dataset": values}).settings.dataset.sample_submission == sample
    named = {**values, "sample_submission": "sample_submission.csv.gz"}
    assert open_project({"Dataset": named}).settings.dataset.sample_submission == sample
