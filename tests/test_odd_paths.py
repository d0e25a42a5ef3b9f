"""What is no regular file, or can't be looked at, wherever a path is opened: a rejected row or one line, never a hang."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import fuzzing
import odd_trees
import pytest
from command import environment
from images import encoded, greys, make_folder, make_idx, picture, table
from listings import build_manifest

from featcache.cache.file_lock import is_held
from featcache.cli import main
from featcache.core import keys, paths
from featcache.core.disk import replacing, storage_errors
from featcache.core.json_records import read_json
from featcache.core.progress import Silent
from featcache.dataset import listing
from featcache.dataset.sources.source import open_source
from featcache.ensemble.ensemble import Ensemble
from featcache.ensemble.sample_submission import read_sample
from featcache.errors import CacheFormatError, FeatcacheError, SettingsError, SourceError, StorageError, WeightsError
from featcache.features.weights import known_digest, resolve_weights
from featcache.inference.predictor import _decode, find_images, image_bytes
from featcache.project import open_project
from featcache.settings.parsing import SECTIONS, parse_settings
from featcache.settings.specs import DatasetSpec, FeaturesSpec
from featcache.training.heads.bag import load_bag
from featcache.training.predictions import stored_members

WEAK = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")  # root without its powers


@pytest.fixture(autouse=True)
def no_hang():
    """A test that hangs fails."""

    def late(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path):
    os.mkfifo(path)


def socket(path):
    os.mknod(path, stat.S_IFSOCK | 0o600)


def zeros(path):
    path.symlink_to("/dev/zero")


def circle(path):
    path.symlink_to(path.name)


def folder(path):
    path.mkdir()


def dangling(path):
    path.symlink_to("nowhere")


def below_a_file(path):
    (path.parent / "file").write_bytes(b"x")
    path.symlink_to("file/x")


WORDS = {
    fifo: "a FIFO, not a file",
    socket: "a socket, not a file",
    zeros: "a device, not a file",
    circle: "a link that leads in a circle",
    folder: "a folder, not a file",
    dangling: "No such file or directory",
    below_a_file: "Not a directory",
}
odd = pytest.mark.parametrize("make", WORDS, ids=lambda make: make.__name__)


@odd
def test_nothing_but_a_regular_file_is_opened(tmp_path, make):
    path = tmp_path / "x"
    make(path)
    with pytest.raises(OSError, match=r".") as caught:
        paths.read_bytes(path)
    assert paths.fault(caught.value) == WORDS[make]
    assert paths.is_folder(path) == (make is folder)
    assert not paths.is_file(path)
    assert paths.what_is(path) not in (paths.FILE, paths.NOTHING)
    assert read_json(path) is None
    with pytest.raises(CacheFormatError, match="can't be used"):
        stored_members(path)
    if make in (fifo, dangling):
        assert not is_held(path)


@odd
def test_a_row_is_set_aside_and_says_why(tmp_path, make):
    root = make_folder(tmp_path / "data")
    make_folder(root, {"x": 1}, "test")
    for place in ("train/ants/odd.png", "test/odd.png", "test/x/odd.png"):
        make(root / place)
    manifest = build_manifest(DatasetSpec("x", "folder", root), tmp_path / "out")
    for split, ids in (("train", ["ants/odd.png"]), ("test", ["odd.png", "x/odd.png"])):
        rows = manifest.splits[split]
        found = {row: reason for row, reason in zip(rows.ids, rows.reasons, strict=True) if reason}
        assert found == dict.fromkeys(ids, f"can't be read: {WORDS[make]}")
    assert manifest.left_out == ({"no suffix": 3} if make is below_a_file else {})
    assert list(find_images([root / "train"]))[-1].name == "img_3.png"
    if make is not folder:
        told = [
            _decode(file, {8}, "stretch", image_bytes)
            for file in find_images([root / "train/ants", root / "test/odd.png"])
        ]
        assert told.count(f"can't be read: {WORDS[make]}") == 2


def test_an_image_without_an_end_is_set_aside(tmp_path):
    root = make_folder(tmp_path / "data")
    (root / "train/ants/huge.png").touch()
    os.truncate(root / "train/ants/huge.png", 1 << 40)
    rows = build_manifest(DatasetSpec("x", "folder", root), tmp_path / "out").splits["train"]
    assert [reason for reason in rows.reasons if reason] == [
        "can't be read: 1,099,511,627,776 bytes, more than 2,147,483,648"
    ]


@odd
def test_an_image_that_became_something_else_is_no_hang(tmp_path, make):
    root = make_folder(tmp_path / "data")
    rows = build_manifest(DatasetSpec("x", "folder", root), tmp_path / "out").splits["train"]
    (root / rows.locations[0]).unlink()
    make(root / rows.locations[0])
    with pytest.raises(SourceError, match=r"img_1.png' (can't be read|was deleted)"):
        open_source(DatasetSpec("x", "folder", root)).load(rows.locations[0], rows.digests[0], 8)


@pytest.mark.parametrize("make", [fifo, zeros, circle, folder, dangling], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("csv", "train.csv"), ("csv", "train.csv.gz"), ("csv", "train.csv.zip"), ("csv", "test.csv"),
        ("idx", "train-images-idx3-ubyte"), ("idx", "train-labels-idx1-ubyte.gz"), ("idx", "t10k-images-idx3-ubyte"),
        ("folder", "groups.csv"), ("folder", "test"), ("folder", "valid"), ("folder", "train"),
    ],
)  # fmt: skip
def test_tables_and_folders_that_are_something_else(tmp_path, source, name, make):
    if make is folder and (source == "folder" or source == "idx"):
        pytest.skip("a folder is right there, or is looked past")
    root = tmp_path / "data"
    root.mkdir()
    if source == "csv":
        (root / "train.csv").write_text(table(greys(), [0, 1] * 3))
    elif source == "idx":
        make_idx(root, greys(), [0, 1] * 3)
    else:
        make_folder(root)
    if name == "train":
        shutil.rmtree(root / name)
    (root / name.removesuffix(".gz").removesuffix(".zip")).unlink(missing_ok=True)
    make(root / name)
    spec = DatasetSpec("x", source, root, groups="groups.csv:c" if name == "groups.csv" else "")
    with pytest.raises(SourceError) as caught:
        build_manifest(spec, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert name.partition(".")[0] in str(caught.value)


@odd
def test_files_that_settings_name(tmp_path, make):
    path = tmp_path / "given.keras"
    make(path)
    for spec in (FeaturesSpec(weights=str(path)), FeaturesSpec(backbone=str(path))):
        assert known_digest(spec, None) is None
        with pytest.raises(WeightsError, match=r"given.keras|folder"):
            resolve_weights(spec, Silent())
    with pytest.raises(FeatcacheError, match=r"given.keras"):
        read_sample(path)
    with pytest.raises(SettingsError, match=r"\[Dataset\] sample_submission: .*, not a file"):
        open_project({"Dataset": {"sample_submission": str(path)}})
    if make is not folder:
        with pytest.raises(SettingsError, match=r"\[Paths\] artifacts: .* is .*: name a folder, existing or new"):
            parse_settings({"Paths": {"artifacts": str(path)}})
        with pytest.raises(SettingsError, match=r"\[Paths\] artifacts: .* is .*: name a folder"):
            parse_settings({"Paths": {"artifacts": str(tmp_path)}, "Dataset": {"name": path.name}})


def test_a_sample_that_lies_with_the_images_is_never_silently_unused(tmp_path):
    os.mkfifo(tmp_path / "sample_submission.csv")
    with pytest.raises(SettingsError, match=r"sample_submission.csv is a FIFO"):
        open_project({"Dataset": {"source": "folder", "path": str(tmp_path), "name": "photos"}})


@pytest.mark.parametrize(
    ("section", "key"), [("Dataset", "path"), ("Dataset", "groups"), ("Dataset", "sample_submission"), ("Features", "backbone"), ("Features", "weights"), ("Paths", "artifacts")]
)  # fmt: skip
@pytest.mark.parametrize(
    ("value", "message"), [("~nobody-of-that-name/x.keras", "has no home folder"), ("a\0b.keras", "NUL character")]
)
def test_paths_that_can_be_none(section, key, value, message):
    assert key in SECTIONS[section]
    with pytest.raises(SettingsError, match=rf"\[{section}\] {key}.*{message}"):
        open_project({section: {key: value}})


def test_a_home_that_is_nowhere(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}[0])
    for path in ("~", "~/photos"):
        with pytest.raises(SettingsError, match=r"\[Dataset\] path='~.*': '~' has no home folder"):
            parse_settings({"Dataset": {"path": path}})
        with pytest.raises(SettingsError, match="write the path in full"):
            open_source(DatasetSpec("x", "folder", Path(path)))


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/" + "x" * 300, "file name too long"),
        ("/" + "x/" * 3000, "file name too long"),
        ("/etc/passwd/x", "not a directory"),
        ("/etc/passwd", "a file"),
        ("/dev/null", "a device"),
        ("/nowhere", "nothing there"),
    ],
)
def test_a_data_set_elsewhere(tmp_path, path, what):
    spec = DatasetSpec("x", "folder", Path(path))
    with pytest.raises(SourceError, match=rf"is not a folder of images but {what}"):
        build_manifest(spec, tmp_path)
    assert listing.list_files(spec) is None


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENAMETOOLONG, errno.ELOOP])
def test_whatever_the_system_says_of_a_path_is_a_reason(tmp_path, monkeypatch, number):
    """A failing disk and a forgetful file server can't be had here; what they answer can."""
    root = make_folder(tmp_path / "data")
    bad, real = str(root / "train/ants/img_2.png"), os.open

    def failing(path, *rest, **more):
        if str(path) == bad:
            raise OSError(number, os.strerror(number), bad)
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", failing)
    rows = build_manifest(DatasetSpec("x", "folder", root), tmp_path / "out").splits["train"]
    (reason,) = filter(None, rows.reasons)
    assert reason == f"can't be read: {paths.fault(OSError(number, os.strerror(number)))}"
    with pytest.raises(SourceError, match=r"img_2.png' can't be read"):
        open_source(DatasetSpec("x", "folder", root)).load("train/ants/img_2.png", "", 8)


@pytest.mark.parametrize("number", [errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST, errno.EISDIR, errno.ESTALE])
def test_what_stands_in_the_way_of_writing_is_one_line(number):
    with pytest.raises(StorageError, match=r"could not write x: "), storage_errors(Path("x"), "could not write"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("make", [fifo, socket, zeros], ids=lambda make: make.__name__)
def test_what_is_no_file_is_never_replaced_by_one(tmp_path, make):
    make(tmp_path / "out.csv")
    before = (tmp_path / "out.csv").lstat()
    with pytest.raises(StorageError, match=r"out.csv: it is a (FIFO|socket|device)"), replacing(tmp_path / "out.csv"):
        raise AssertionError("nothing is begun")
    assert os.path.samestat((tmp_path / "out.csv").lstat(), before)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


# ---- commands


@pytest.mark.parametrize("command", ["show", "ls", "stats", "export", "pca", "verify", "neighbours", "repair"])
@odd
def test_commands_on_cache_files_that_are_none(tmp_path, capsys, command, make):
    if (make, command) in ((folder, "ls"), (folder, "repair"), (folder, "verify")):
        pytest.skip("these take folders")
    path = tmp_path / "train-copy0.h5"
    make(path)
    more = {
        "export": [str(tmp_path / "out")],
        "neighbours": ["1"],
        "pca": [],
        "repair": ["--set", f"Paths.artifacts={tmp_path}"],
    }
    status = main([command, str(path), *more.get(command, [])])
    said = capsys.readouterr()
    assert status in (1, 2)
    assert "Traceback" not in said.err + said.out
    assert "train-copy0.h5" in said.err + said.out


@pytest.fixture
def littered(tmp_path):
    """A project's folder in which whatever can lie there does."""
    *_, ensemble, submission = fuzzing.make_project(tmp_path)
    out = tmp_path / "out"
    for room in ("features", "heads/b", "convnets", "predictions/test-00000000"):
        (out / room).mkdir(parents=True)
    for path in (ensemble, submission, out / "submission.json"):
        path.unlink()
    for number, make in enumerate((fifo, zeros, circle, dangling)):
        (out / f"convnets/seed{number}").mkdir()
        for name in (
            f"features/train-copy0-{number:08}.h5",
            f"features/train-copy0.{number:08}.partial.h5",
            f"{number}.json",
            f"heads/{number}",
            f"convnets/seed{number}/convnet.json",
            f".tmp-{number}",
        ):
            make(out / name)
    (
        fifo(ensemble),
        circle(submission),
        circle(out / "submission.json"),
        fifo(out / "heads/b/bag.json"),
        fifo(out / "predictions/test-00000000/predictions.json"),
    )
    (out / "features/folder.h5").mkdir()
    locked = tmp_path / "locked"
    (locked / "x").mkdir(parents=True)
    locked.chmod(0)
    for name in ("link", "features/link.h5", "heads/link", "convnets/link"):
        (out / name).symlink_to(locked / "x")
    (out / "heads/closed").mkdir(mode=0)
    yield tmp_path
    locked.chmod(0o755)
    (out / "heads/closed").chmod(0o755)


def weak_prefix():
    if os.getuid():
        return []
    if not shutil.which("setpriv") or subprocess.run([*WEAK, sys.executable, "-c", ""]).returncode:
        pytest.skip("only root with setpriv can do without its powers")
    return list(WEAK)


@pytest.mark.parametrize(
    "words", [["status"], ["plan"], ["du"], ["gc"], ["gc", "--yes"], ["verify", "."], ["leaderboard"]], ids=" ".join
)
def test_commands_in_a_littered_folder(littered, words):
    settings = {"Dataset.name": "out", "Dataset.source": "folder", "Dataset.path": "photos", "Paths.artifacts": ".", "Features.weights": "random", "Features.precision": "float32"}  # fmt: skip
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    done = subprocess.run([*weak_prefix(), sys.executable, "-m", "featcache.cli", *words, *flags], cwd=littered, env=environment(), capture_output=True, text=True, timeout=100)  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == {"verify": 2, "leaderboard": 1}.get(words[0], 0), done.stderr
    assert "ended with status" not in done.stdout


@pytest.mark.parametrize(
    ("closed", "status"),
    [("out", 1), (".", 1), ("out/features", 0), ("out/heads", 0), ("out/predictions", 0), ("out/ensembles", 0)],
)
def test_a_folder_that_may_not_be_looked_into(littered, closed, status):
    settings = {"Dataset.name": "out", "Dataset.source": "folder", "Dataset.path": "photos", "Paths.artifacts": str(littered), "Features.weights": "random", "Features.precision": "float32"}  # fmt: skip
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    calls = (
        f"from featcache.cli import main; print([main([word, *{flags!r}]) for word in ('status', 'plan', 'du', 'gc')])"
    )
    prefix, folder = weak_prefix(), littered / closed
    folder.chmod(0)
    try:
        done = subprocess.run([*prefix, sys.executable, "-c", calls], cwd="/", env=environment(), capture_output=True, text=True, timeout=100)  # fmt: skip
    finally:
        folder.chmod(0o755)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0
    told = done.stdout.splitlines()[-1]
    assert told == str([status] * 4) if closed in ("out", ".") else told.startswith("[0, ")
    assert "without read permission" in done.stderr or closed not in ("out", ".")


def test_records_that_are_no_files_are_no_more_than_not_complete(littered):
    ensemble = fuzzing.project_of(littered).ensemble()
    assert not ensemble.is_complete()
    for load in (lambda: Ensemble.load(ensemble.path), lambda: load_bag(littered / "out/heads/b")):
        with pytest.raises(FeatcacheError):
            load()
    with pytest.raises(OSError, match="a FIFO"):
        keys.file_digest(ensemble.path)


FORBIDDEN = """
import sys
from pathlib import Path
from featcache.cli import main
from featcache.dataset.listing import list_images
from featcache.settings.specs import DatasetSpec
from featcache.errors import FeatcacheError
root = Path(sys.argv[1])
try:
    manifest = list_images(DatasetSpec("x", "folder", root), Path(sys.argv[2]))
    for split, rows in manifest.splits.items():
        for row, reason in zip(rows.ids, rows.reasons):
            print(split, row, reason)
    print(dict(manifest.left_out))
except FeatcacheError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    ("closed", "mode", "said"),
    [
        ("train/ants/img_1.png", 0, "train ants/img_1.png can't be read: Permission denied"),
        ("locked", 0, "train ants/link.png can't be read: Permission denied"),
        ("locked", 0, "'links that lead to no file': 1"),
        ("train/bees", 0, "bees' can't be listed: Permission denied"),
        ("train", 0o644, "can't be listed: Permission denied"),
        ("test", 0, "test' can't be listed: Permission denied"),
        (".", 0o644, "is not a folder but permission denied"),
        ("..", 0o644, "is not a folder of images but permission denied"),
    ],
)
def test_what_may_not_be_read(tmp_path, closed, mode, said):
    prefix, root = weak_prefix(), make_folder(tmp_path / "above" / "data")
    make_folder(root, {"x": 1}, "test")
    (root / "locked/x").mkdir(parents=True)
    (root / "train/ants/link.png").symlink_to("../../locked/x/1.png")
    (root / "test/link").symlink_to("../locked/x")
    if closed != "locked":
        (root / "train/ants/link.png").unlink(), (root / "test/link").unlink()
    before = (root / closed).stat().st_mode
    (root / closed).chmod(mode)
    try:
        words = [*prefix, sys.executable, "-c", FORBIDDEN, str(root), str(tmp_path / "out")]
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60)
    finally:
        (root / closed).chmod(stat.S_IMODE(before))
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_the_folder_that_one_is_in_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SettingsError, match="change to another one and run again"):
        parse_settings({})


# ---- an interrupt


def test_the_first_interrupt_ends_a_listing(tmp_path, monkeypatch):
    """Slow reads, as of a network disk: none begins after the interrupt."""
    root = make_folder(tmp_path / "data", {"ants": 40, "bees": 40})
    begun, real = [], paths.read_bytes

    def slow(path, most=None):
        begun.append(time.monotonic())
        time.sleep(0.2)
        return real(path, most)

    monkeypatch.setattr(paths, "read_bytes", slow)
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    asked = time.monotonic() + 0.5
    try:
        with pytest.raises(KeyboardInterrupt):
            build_manifest(DatasetSpec("x", "folder", root), tmp_path / "out")
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - asked < 2
    assert len(begun) < 80
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("listing")]


# ---- any tree


@pytest.mark.parametrize("prefix", [(), WEAK], ids=["as it is", "without root's powers"])
def test_every_entry_of_an_odd_tree_is_accounted_for(prefix):
    """In a process of its own, which may hang; 5,000 trees by hand: python tests/odd_trees.py 5000."""
    words = [*(weak_prefix() if prefix else []), sys.executable, odd_trees.__file__, "60"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "trees listed" in done.stdout


def test_a_very_deep_test_folder(tmp_path):
    root = make_folder(tmp_path / "data")
    deepest = root / "test" / "/".join(["d"] * 1200)
    subprocess.run(["mkdir", "-p", str(deepest)], check=True)  # Python's own making and removing are recursive
    (deepest / "1.png").write_bytes(encoded(picture()))
    try:
        manifest = build_manifest(DatasetSpec("x", "folder", root), tmp_path / "out")
        assert len(manifest.splits["test"]) == 1
        assert len(list(find_images([root / "test"]))) == 1
    finally:
        subprocess.run(["rm", "-rf", str(root)], check=True)
