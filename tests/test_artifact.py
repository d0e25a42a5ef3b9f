"""A result in a folder named by its key, and the copy of it that is shown: current only while it is equal."""

import dataclasses

import pytest

from featcache.core.disk import disk
from featcache.core.json_records import write_json
from featcache.core.keys import bytes_digest
from featcache.project.artifact import Artifact


def stored(folder, key, content):
    """A submission as `WriteSubmission` stores it, not yet shown."""
    path = folder / "submissions" / key / "submission.json"
    artifact = Artifact(path, key, {"upstream": key}, folder / "submission.csv")
    path.parent.mkdir(parents=True)
    artifact.content.write_bytes(content)
    record = {**artifact.record_header("run"), "content_digest": bytes_digest(content)}
    write_json(path, {**record, "files": {"submission.csv": len(content)}})
    return artifact


def test_each_is_complete_only_while_it_is_shown(tmp_path):
    first, second = (stored(tmp_path, key, key.encode()) for key in ("aaaaaaaa", "bbbbbbbb"))
    assert not first.is_complete()
    for mine, other in ((first, second), (second, first), (first, second)):
        mine.show()
        assert (mine.is_complete(), other.is_complete()) == (True, False)
        assert mine.is_stored()
        assert other.is_stored()
        assert mine.shown.read_bytes() == mine.content.read_bytes()
        assert mine.shown_key() == mine.key
    assert first.is_complete("run")
    assert not first.is_complete("another run")
    assert not dataclasses.replace(first, key=None).is_complete()


def test_a_copy_changed_by_hand_is_renewed_and_a_damaged_result_is_not_shown_as_one(tmp_path):
    artifact = stored(tmp_path, "aaaaaaaa", b"right")
    artifact.show()
    artifact.shown.write_bytes(b"wrong")
    assert not artifact.is_complete()
    assert artifact.is_stored()
    artifact.show()
    assert artifact.is_complete()
    artifact.content.write_bytes(b"wrong")
    assert not artifact.is_stored()
    artifact.content.write_bytes(b"longer than it was")
    assert not artifact.is_complete()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [0, 1])
def test_killed_at_a_rename_nothing_half_done_looks_complete(tmp_path, monkeypatch, step, when):
    old, new = stored(tmp_path, "aaaaaaaa", b"old"), stored(tmp_path, "bbbbbbbb", b"newer")
    old.show()
    replace, renames = disk.replace, []

    def killed(source, target):
        renames.append(target)
        if len(renames) - 1 == step and when == "before":
            raise KeyboardInterrupt
        replace(source, target)
        if len(renames) - 1 == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(disk, "replace", killed)
    gz = tmp_path / "submission.csv.gz"
    gz.write_bytes(b"of other settings")
    with pytest.raises(KeyboardInterrupt):
        new.show(gz)
    monkeypatch.undo()
    assert new.is_complete() == ((step, when) == (1, "after"))
    assert not (new.is_complete() and gz.exists())
    assert new.shown.read_bytes() in (b"old", b"newer"), "never half-written"
    assert not (old.is_complete() and new.is_complete())
    new.show(gz)
    assert new.is_complete()
    assert not gz.exists()
