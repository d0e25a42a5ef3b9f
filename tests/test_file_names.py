"""File names stay within what file systems take, however many taps there are and however long their names."""

import os
import re

import pytest
from hypothesis import given, settings, strategies as st
from projects import small_project

from featcache.cache.layout import partial_path
from featcache.cli import main
from featcache.cli.command import OK
from featcache.core import keys
from featcache.errors import SettingsError
from featcache.project.project import Project
from featcache.settings.parsing import parse_settings
from featcache.settings.specs import DatasetSpec, Tap

LIMIT = 255
THIRTEEN = [f"block{block}_{layer}" for block in (1, 2, 3, 4) for layer in ("conv1", "conv2", "pool")] + ["block5_pool"]


def project_of(taps):
    names = ",".join(map(str, taps))
    return Project(parse_settings({"Features": {"weights": "random", "taps": names, "precision": "float32"}}))


def written(path):
    """The names that are ever given to what becomes `path`, in bytes."""
    names = [path.name, f".tmp-00000000-{path.name}", f".tmp-00000000-old-{path.name}"]
    if path.suffix == ".h5":
        partial = partial_path(path, "k" * 64).name
        names += [partial, f".tmp-00000000-{partial}"]
    return [os.fsencode(name) for name in names]


TAPS = st.lists(
    st.from_regex(r"[a-z_][a-z0-9_.\-]{0,300}", fullmatch=True).map(Tap), min_size=1, max_size=30, unique=True
)


@given(TAPS)
@settings(max_examples=60, deadline=None)
def test_names_are_short_enough_and_as_ever_where_they_were(taps):
    project = project_of(taps)
    path = project.backbones[0].cache("train", 3).path
    assert max(map(len, written(path))) <= LIMIT
    names = [tap.name for tap in taps]
    digest = keys.short(keys.digest([project.tap_keys(3)[name] for name in names]))
    as_ever = f"train-copy3-vgg16-{'+'.join(names)}-48-{digest}.h5"
    assert path.name == as_ever or len(as_ever) > 224
    assert path.name.endswith(f"-{digest}.h5")
    folders = [project.bag(name, "fast").path.parent for name in names]
    assert len(set(folders)) == len(names)
    for name, folder in zip(names, folders, strict=True):
        assert max(map(len, written(folder))) <= LIMIT
        assert folder.name.startswith(f"{name}-fast-"[:100])


def test_many_taps_that_are_auto_have_one_short_name():
    given = Project(parse_settings({"Features": {"weights": "random", "precision": "float32"}}))
    assert re.fullmatch(r"train-copy0-vgg16-auto-48-[0-9a-f]{8}\.h5", given.backbones[0].cache("train", 0).path.name)
    explicit = project_of(given.settings.features.taps)
    assert explicit.backbones[0].cache("train", 0).path == given.backbones[0].cache("train", 0).path


def test_a_layer_that_is_called_pooled_hides_no_taps_that_are():
    inputs = project_of([Tap("pooled"), Tap("a", "avg"), Tap("b", "max")]).inputs()
    assert inputs == {"a_avg+b_max": ("a_avg", "b_max"), "pooled": ("pooled",)}


@given(st.text(max_size=400), st.text(max_size=400), st.integers(0, 40))
@settings(deadline=None)
def test_a_shortened_name_is_still_its_own(one, other, more):
    short = [keys.short_name(name, more) for name in (one, other)]
    assert (short[0] == short[1]) == (one == other)
    assert all(len(name.encode("utf-8", "surrogateescape")) <= 224 - more for name in short)


@pytest.mark.parametrize("name", ["a" * 256, "a/b", "ä", "", ".hidden", "-x"])
def test_a_data_set_is_called_as_a_folder_can_be(name):
    with pytest.raises(SettingsError, match=r"\[Dataset\] name"):
        DatasetSpec(name=name)


@pytest.mark.parametrize("layer", ["a/b/c", "", ".hidden", "-x", "ä", "a b"])
def test_a_tap_is_called_as_a_dataset_can_be(layer):
    with pytest.raises(SettingsError, match=r"\[Features\] taps"):
        Tap.parse(layer)


def test_a_whole_run_with_thirteen_taps(tmp_path, capsys):
    project = small_project(tmp_path)
    project.set("Features", taps=",".join(f"{layer}:avg" for layer in THIRTEEN))
    project.set("Heads", schedule="1e-2x1", seeds="1")
    worked = project.run()
    assert project.succeeded, capsys.readouterr().err
    assert worked.count("TrainBag") == 3, "fast, linear and lda, on all taps side by side"
    assert project.run() == []
    (cache,) = (project.artifacts / "features").glob("test-*.h5")
    assert main(["export", str(cache), str(tmp_path / "exported")]) == OK
    assert len(list((tmp_path / "exported").glob("block*.npy"))) == len(THIRTEEN)
