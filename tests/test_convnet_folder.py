"""A member's folder while it is made: what counts as done, and what doesn't."""

import numpy as np
import pytest

from featcache.core import disk
from featcache.training.convnet.checkpoints import PartialFolder, model_path, model_paths
from featcache.training.predictions import Predictions

HISTORY = {"loss": [0.5, 0.25]}


class Model:
    """Stands in for a Keras model: one file."""

    def __init__(self, content=b"weights"):
        self.content = content

    def save(self, filepath):
        filepath.write_bytes(self.content)


@pytest.fixture
def partial(tmp_path):
    partial = PartialFolder(tmp_path / "convnets/seed0-abc", "key")
    partial.begin(fresh=False)
    return partial


def test_a_finished_fold_counts_for_its_key_only(partial):
    assert partial.finished(0) is None
    partial.finish(0, Model(), HISTORY)
    assert partial.finished(0) == HISTORY
    assert partial.finished(1) is None
    assert PartialFolder(partial.folder, "other").finished(0) is None
    model_path(partial.path, 0).write_bytes(b"short")
    assert partial.finished(0) is None


def test_a_checkpoint_is_of_one_fold_and_goes_when_that_is_finished(partial):
    state = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, np.int64)]
    partial.checkpoint(1).save(state, HISTORY)
    values, history = partial.checkpoint(1).load()
    assert history == HISTORY
    assert [value.dtype for value in values] == [np.float32, np.int64]
    assert all(np.array_equal(a, b) for a, b in zip(values, state, strict=True))
    assert partial.checkpoint(0).load() is None
    assert PartialFolder(partial.folder, "other").checkpoint(1).load() is None
    partial.finish(1, Model(), HISTORY)
    assert partial.checkpoint(1).load() is None


def test_a_damaged_checkpoint_is_none(partial):
    partial.checkpoint(0).save([np.zeros(1000)], HISTORY)
    path = next(partial.path.glob("*.npz"))
    path.write_bytes(path.read_bytes()[:-500])
    assert partial.checkpoint(0).load() is None
    path.write_bytes(b"")
    assert partial.checkpoint(0).load() is None


def test_a_fresh_start_forgets(partial):
    partial.finish(0, Model(), HISTORY)
    partial.begin(fresh=False)
    assert partial.finished(0)
    partial.begin(fresh=True)
    assert partial.finished(0) is None


def test_publishing_replaces_what_was_there(partial):
    said = Predictions(("a",), np.zeros(1, np.int32), ("m",), np.ones((1, 1, 1), np.float32), ("c",))
    for content in (b"first", b"second"):
        partial.begin(fresh=False)
        for fold in (10, 2):
            partial.finish(fold, Model(content), HISTORY)
        partial.checkpoint(3).save([], HISTORY)
        partial.publish({"key": "key"}, said)
        assert not partial.path.exists()
        assert [path.name for path in model_paths(partial.folder)] == ["fold2.keras", "fold10.keras"]
        assert model_path(partial.folder, 2).read_bytes() == content
        names = {path.name for path in partial.folder.iterdir()}
        assert names == {"convnet.json", "fold2.keras", "fold10.keras", "out_of_fold.npy"}
    assert [path.name for path in partial.folder.parent.iterdir()] == ["seed0-abc"]


def test_a_kill_while_it_is_published_loses_no_fold(partial, monkeypatch):
    said = Predictions(("a",), np.zeros(1, np.int32), ("m",), np.ones((1, 1, 1), np.float32), ("c",))
    partial.finish(0, Model(), HISTORY)
    partial.finish(1, Model(), HISTORY)

    def killed(*_):
        raise KeyboardInterrupt

    for step in ("replace", "fsync_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(disk.disk, step, killed)
            with pytest.raises(KeyboardInterrupt):
                partial.publish({"key": "key"}, said)
        assert partial.finished(0) == partial.finished(1) == HISTORY, step
    partial.publish({"key": "key"}, said)
    names = {path.name for path in partial.folder.iterdir()}
    assert names == {"convnet.json", "fold0.keras", "fold1.keras", "out_of_fold.npy"}
