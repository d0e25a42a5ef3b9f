"""Small trees of whatever may lie among images, made by Hypothesis, listed and decoded; every entry must be accounted for.

``python odd_trees.py EXAMPLES`` runs it in this process, so that a hang is the process' end and no test runner's, and so
that root can be without its powers.
"""

import os
import re
import stat
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from images import encoded, make_folder, picture
from listings import build_manifest

from featcache.dataset.listing import current_key, list_files
from featcache.dataset.sources.scan import SUFFIXES
from featcache.dataset.sources.source import open_source
from featcache.errors import FeatcacheError, RejectedImageError, SourceError
from featcache.inference.predictor import _decode, find_images, image_bytes
from featcache.settings.specs import DatasetSpec

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a listing syncs what it keeps, which takes a disk its time
WHOLE = encoded(picture())
OUTSIDE = "images outside a class folder"
SOUND = ("image", "link")  # whatever else is called an image is a rejected row, now or at decoding


def no_folder(root, path, kind):
    """Make an entry of a kind that is no folder."""
    links = {
        "dangling": "nowhere",
        "self": path.name,
        "zero": "/dev/zero",
        "null": "/dev/null",
        "below": "../ants/img_1.png/x",
    }
    contents = {"image": WHOLE, "cut": WHOLE[:200], "empty": b"", "text": b"<html>", "huge": b"", "forbidden": WHOLE}
    if kind in links:
        path.symlink_to(links[kind])
    elif kind == "link":
        path.symlink_to(root / "train/ants/img_1.png")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.write_bytes(contents[kind])
    if kind == "huge":
        os.truncate(path, 1 << 40)
    if kind == "forbidden":
        path.chmod(0)


NO_FOLDERS = (
    "image", "link", "cut", "empty", "text", "huge", "forbidden", "fifo", "socket", "dangling", "self", "zero", "null", "below",
)  # fmt: skip
FOLDERS = ("folder", "filled", "above")
stems = st.one_of(
    st.sampled_from(["x", "-r", " x ", "x\ny", "x\r", ".x", "._x", "..x", "café", "cafe\u0301", "\udcff", "%s", "*", "x" * 200]),
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8),
)  # fmt: skip
names = st.builds("".join, st.tuples(stems, st.sampled_from([".jpg", ".PNG", ".txt", "", ".jpg ", ".gif"])))
names = names.filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) < 250)
places = st.sampled_from([*["train/ants", "valid/ants", "test", "test/sub"] * 3, "train", "valid"])
entries = st.lists(st.tuples(places, names, st.sampled_from(NO_FOLDERS + FOLDERS)), max_size=6)


def make_tree(root, wanted):
    """Make the tree; return location -> kind of what was made."""
    make_folder(root, {"ants": 2, "bees": 2})
    made = {}
    for place, name, kind in wanted:
        path = root / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            continue
        made[f"{place}/{name}"] = kind
        if kind in ("folder", "filled"):
            path.mkdir()
            if kind == "filled":
                (path / "inside.png").write_bytes(WHOLE)
        elif kind == "above":
            path.symlink_to("..")
        else:
            no_folder(root, path, kind)
    return made


def is_image(location):
    name = location.rpartition("/")[2]
    return not name.startswith(".") and name[name.rfind(".") :].lower() in SUFFIXES


def check(root, wanted):
    """Make a tree, list it and read every row; return whether it was listed, rather than refused in one line."""
    made = make_tree(root, wanted)
    spec, out = DatasetSpec("x", "folder", root), root.parent / "out"
    try:
        manifest = build_manifest(spec, out)
    except FeatcacheError as error:
        assert "\n" not in str(error), error  # noqa: PT017
        return False
    rows = {}
    for split in manifest.splits.values():
        rows |= dict(zip(split.locations, zip(split.digests, split.reasons, strict=True), strict=True))
    check_accounts(made, rows, manifest.left_out)
    source = open_source(spec)
    for location, (digest, reason) in rows.items():
        kind = made.get(location, "image")  # what lies in a folder that was made is sound
        assert bool(reason) == (kind not in (*SOUND, "cut", "forbidden")) or kind == "forbidden", (location, reason)
        try:
            assert source.load(location, digest, 8).shape == (8, 8, 3)
            assert not reason, location
        except (SourceError, RejectedImageError) as error:
            assert reason or kind == "cut", (location, error)  # noqa: PT017
    assert current_key(spec, out, list_files(spec)) == manifest.key
    check_prediction(root / "test")
    return True


def check_accounts(made, rows, left_out):
    """Every image by name is a row, and all other files that aren't hidden are counted."""
    files = {location for location, kind in made.items() if kind not in FOLDERS}
    images = {at for at in files if is_image(at) and at.rpartition("/")[0] not in ("train", "valid")}
    assert images <= rows.keys(), images - rows.keys()
    if "above" not in made.values():  # whose files count as well
        others = [location for location in files - images if not location.rpartition("/")[2].startswith(".")]
        counts = [count for kind, count in left_out.items() if kind == OUTSIDE or not re.search("folder|dot", kind)]
        assert sum(counts) == len(others), (left_out, others)


def check_prediction(folder):
    """Whatever lies there is read or has a reason."""
    try:
        files = list(find_images([folder]))
    except SourceError:
        return  # there is none
    for file in files:
        assert _decode(file, {8}, "stretch", image_bytes)


def fuzz(examples):
    """Return how many trees were listed, and how many refused."""
    counts = [0, 0]

    @settings(max_examples=examples, deadline=None, database=None, derandomize=examples <= 1000, print_blob=True,
              suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
    @given(entries)
    def attack(wanted):
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            counts[0 if check(Path(folder) / "data", wanted) else 1] += 1

    attack()
    return counts


if __name__ == "__main__":
    listed, refused = fuzz(int(sys.argv[1]))
    sys.stdout.write(f"{listed} trees listed, {refused} refused\n")
