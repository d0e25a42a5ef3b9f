"""Parquet files with the images' bytes in a column, as the Hugging Face hub has them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import encoded, picture
from listings import build_manifest

from featcache.dataset import digest_cache, file_checks
from featcache.dataset.listing import current_key, list_files, list_images
from featcache.dataset.sources import parquet
from featcache.dataset.sources.source import open_source
from featcache.errors import SourceChangedError, SourceError
from featcache.settings.specs import DatasetSpec

NAMES = ["ant", "bee"]
FEATURES = {"info": {"features": {"label": {"names": NAMES, "_type": "ClassLabel"}}}}


def images(*seeds):
    return [encoded(picture(4, 4, seed=seed)) for seed in seeds]


def write(path, content, labels=None, *, nested=True, metadata=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = [{"bytes": each, "path": "x.jpg"} for each in content] if nested else content
    table = pa.table({"image": image, **({} if labels is None else {"label": labels}), **columns})
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)


@pytest.fixture
def root(tmp_path):
    root, metadata = tmp_path / "data", {"huggingface": json.dumps(FEATURES)}
    write(root / "data/train-00000-of-00002.parquet", images(0, 1, 2), [0, 1, 0], metadata=metadata)
    write(root / "data/train-00001-of-00002.parquet", images(3), [1], metadata=metadata)
    write(root / "data/validation-00000-of-00001.parquet", images(4), [1], metadata=metadata)
    write(root / "data/test-00000-of-00001.parquet", images(5, 6), [-1, -1], metadata=metadata)
    return root


def listed(root, **settings):
    return build_manifest(DatasetSpec("x", "parquet", root, **{"label": ("label",), **settings}), root.parent / "out")


def refusal(root, **settings):
    with pytest.raises(SourceError) as caught:
        listed(root, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_hubs_layout(root):
    manifest = listed(root)
    assert manifest.class_names == ("ant", "bee")
    assert {split: (len(rows), rows.labels.tolist()) for split, rows in manifest.splits.items()} == {
        "train": (4, [0, 1, 0, 1]),
        "valid": (1, [1]),
        "test": (2, [-1, -1]),
    }
    assert manifest.splits["train"].ids[2:] == ["data/train-00000-of-00002:2", "data/train-00001-of-00002:0"]
    source = open_source(DatasetSpec("x", "parquet", root, label=("label",)))
    for rows in manifest.splits.values():
        for location, digest in reversed([*zip(rows.locations, rows.digests, strict=True)]):
            assert source.load(location, digest, 4).shape == (4, 4, 3)


def test_columns_of_bytes_ids_groups_and_splits(tmp_path):
    parts = {"who": ["p", "p", "q", "q"], "part": ["train", "train", "train", "dev"], "name": list("abcd")}
    write(tmp_path / "data/a.parquet", images(0, 1, 2, 3), ["x", "y", "x", "y"], nested=False, **parts)
    manifest = listed(tmp_path / "data", groups="who", split="part", id="name", images=("image",))
    assert [*manifest.splits["train"].ids] == ["a", "b", "c"]
    assert [*manifest.splits["train"].groups] == ["p", "p", "q"]
    assert [*manifest.splits["valid"].ids] == ["d"]


def test_images_that_are_missing_are_rejected(tmp_path):
    write(tmp_path / "data/a.parquet", [*images(0), None, b"GIF", *images(3)], ["x", "y", "x", "y"])
    reasons = [*listed(tmp_path / "data").splits["train"].reasons]
    assert reasons[::3] == ["", ""]
    assert reasons[1] == "the file is empty (0 bytes)"
    assert reasons[2].startswith("not an image")


def test_only_changed_files_are_read_again(root, monkeypatch):
    monkeypatch.setattr(file_checks, "SETTLE_NS", 0)
    spec, out = DatasetSpec("x", "parquet", root, label=("label",)), root.parent / "out"
    key = listed(root).key
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "_Reader", lambda *_: pytest.fail("a file was opened"))
        assert current_key(spec, out, list_files(spec)) == key
    read, examined = [], digest_cache._examined
    monkeypatch.setattr(
        digest_cache, "_examined", lambda path, *rest: read.append(Path(path).name) or examined(path, *rest)
    )
    (root / "data/test-00000-of-00001.parquet").touch()
    assert current_key(spec, out, list_files(spec)) == key
    assert read == ["test-00000-of-00001.parquet"] * 3, "itself and its two images"
    write(root / "data/test-00001-of-00002.parquet", images(7), [0])
    assert current_key(spec, out, list_files(spec)) is None
    assert set(read[3:]) == {"test-00001-of-00002.parquet"}


def test_what_is_no_such_file(root):
    whole = (root / "data/train-00001-of-00002.parquet").read_bytes()
    (root / "data/train-00001-of-00002.parquet").write_bytes(whole[: len(whole) // 2])
    assert "train-00001-of-00002.parquet is damaged or no table" in refusal(root)
    (root / "data/train-00001-of-00002.parquet").unlink()
    assert "has no column 'labell', but image, label, did you mean label?" in refusal(root, label=("labell",))
    assert "[Dataset] images: " in refusal(root, images=("picture",))
    write(root / "data/train-00001-of-00002.parquet", ["no", "bytes"], [0, 1], nested=False)
    assert "has no column of images' bytes" in refusal(root)


def test_a_file_that_changes_while_it_is_listed(root):
    files = list_files(DatasetSpec("x", "parquet", root, label=("label",)))
    (root / "data/train-00001-of-00002.parquet").touch()
    with pytest.raises(SourceChangedError, match=r"train-00001-of-00002.parquet changed during the listing: run again"):
        list_images(DatasetSpec("x", "parquet", root, label=("label",)), root.parent / "out", files=files)


@pytest.mark.parametrize(
    "feature",
    [
        {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "List"},
        [{"names": NAMES, "_type": "ClassLabel"}],
    ],
)
def test_lists_of_class_numbers(tmp_path, feature):
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    write(tmp_path / "data/train.parquet", images(0, 1, 2, 3), [[1, 0], [1], [], None], metadata=metadata)
    write(tmp_path / "data/test.parquet", images(4))
    manifest = listed(tmp_path / "data")
    assert manifest.class_names == ("ant", "bee")
    assert manifest.splits["train"].labels.tolist() == [[1, 1], [0, 1], [0, 0], [-1, -1]]
    assert manifest.splits["test"].labels.tolist() == [[-1, -1]]


def test_columns_and_tags(tmp_path):
    write(tmp_path / "data/train-0.parquet", images(0, 1), ["x y", "y"], a=[1, 0], b=[0, 1])
    write(tmp_path / "data/train-1.parquet", images(2, 3), ["z", "x"], a=[1, 0], b=[1, 0])
    columns, tags = listed(tmp_path / "data", label=("a", "b")), listed(tmp_path / "data", separator="blank")
    assert columns.splits["train"].labels.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    assert tags.class_names == ("x", "y", "z")
    assert tags.splits["train"].labels.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
