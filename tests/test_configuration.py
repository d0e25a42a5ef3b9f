"""luigi.cfg as people leave it: what can't be meant is one line that says where, for Luigi's command and for featcache's."""

import os
import pkgutil
import re
from pathlib import Path

import luigi as luigi_package
import pytest
from command import luigi
from hypothesis import given, settings, strategies as st
from luigi.task_register import Register

from featcache.cli import main
from featcache.errors import FeatcacheError, SettingsError
from featcache.project.config_file import configured_project, configured_sections
from featcache.project.flow import NEEDS
from featcache.settings.luigi_sections import LUIGI_SECTIONS
from featcache.settings.parsing import SECTIONS
from pipeline import config


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, without a luigi.cfg."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUIGI_CONFIG_PATH", raising=False)
    return tmp_path


def fault(content):
    """What is said of a luigi.cfg."""
    Path("luigi.cfg").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError) as caught:
        configured_project()
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("datset", "Dataset"),
        ("dataset", "Dataset"),
        ("DATASET", "Dataset"),
        ("featurs", "Features"),
        ("Feature", "Features"),
        ("head", "Heads"),
        ("conv_net", "ConvNet"),
        ("submision", "Submission"),
        ("path", "Paths"),
        (" Dataset", "Dataset"),
        ("trainheads", "TrainHeads"),
        ("resource", "resources"),
        ("workers", "worker"),
        ("Core", "core"),
        ("ouput", "output"),
    ],
)
def test_a_section_that_is_nobodys_is_refused_with_the_nearest(written, meant):
    assert fault(f"[{written}]\nx = 1\n").startswith(f"unknown section [{written}], did you mean [{meant}]?")


def test_a_section_like_none_is_refused_all_the_same():
    assert fault("[zzz]\n").startswith("unknown section [zzz]; known: Dataset")


def test_every_section_that_luigi_has_is_left_alone():
    from luigi import retcodes, server, setup_logging  # which define or read some

    assert all((retcodes, server, setup_logging))
    luigis = {name for name in Register.task_names() if issubclass(Register.get_task_cls(name), luigi_package.Config)}
    assert luigis - set(config.CONFIGS) - {"Config", "output"} <= LUIGI_SECTIONS
    source = "".join(
        Path(module.module_finder.path, f"{module.name}.py").read_text()
        for module in pkgutil.iter_modules(luigi_package.__path__)
        if not module.ispkg
    )
    assert set(re.findall(r"get_config\(\)\.\w+\(\"(\w+)\"", source)) <= LUIGI_SECTIONS
    Path("luigi.cfg").write_text("".join(f"[{name}]\na b = %%\n" for name in [*LUIGI_SECTIONS, "logger_root", *NEEDS]))
    assert configured_project().settings.dataset.name == "digits"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[Features]\nImage_Size = 32\n", ["unknown key 'Image_Size'", "did you mean image_size?"]),
        ("[Features]\nimage-size = 32\nimage_size = 48\n", ["[Features] has both image_size and image-size"]),
        ("[Cluster]\ngpus-per_worker = 1\n", ["unknown key 'gpus-per_worker'", "did you mean gpus_per_worker?"]),
        ("[output]\nquite = true\n", ["unknown key 'quite'", "did you mean quiet?"]),
        ("[DEFAULT]\nimage_size = 96\n", ["[DEFAULT]", "'image_size'", "[Features]"]),
        ("[DEFAULT]\nimage-size = 96\n[Features]\n", ["[DEFAULT]", "'image-size'"]),
        ("[Dataset]\npath = 100%/x\n", ["luigi.cfg: [Dataset] path", "path='100%/x'", "write %%"]),
        ("[Dataset]\npath = a%\n", ["luigi.cfg: [Dataset] path", "write %%"]),
        ("[Dataset]\npath = %(root)s/x\n", ["luigi.cfg: [Dataset] path", "there is no key 'root'"]),
        ("[Dataset]\npath = %(path)s\n", ["luigi.cfg: [Dataset] path", "write %%"]),
        ("[Dataset]\npath = ${FEATCACHE_NOWHERE}\n", ["[Dataset] path", "FEATCACHE_NOWHERE isn't set"]),
        ("name = x\n", ["luigi.cfg", "line: 1"]),
        ("[Dataset]\nname = x\nname = y\n", ["luigi.cfg", "line 3", "'name'"]),
        ("[Dataset]\n[Dataset]\n", ["luigi.cfg", "line 2", "'Dataset'"]),
        ("[Dataset\nname = x\n", ["luigi.cfg", "line: 1"]),
        ("[Dataset]\nname\n", ["luigi.cfg", "name"]),
        (b"\xef\xbb\xbf[Dataset]\nname = x\n", ["luigi.cfg", "byte order mark", "save it as UTF-8"]),
        ("[Dataset]\nname = x\n".encode("utf-16"), ["luigi.cfg", "byte order mark", "save it as UTF-8"]),
        ("[Dataset]\nname = x\n".encode("utf-16-be"), ["luigi.cfg"]),
        ("[Dataset]\npath = caf\xe9\n".encode("latin-1"), ["luigi.cfg, line 2", "UTF-8", "0xe9"]),
    ],
)
def test_a_mistake_is_one_line_with_the_place(content, words, monkeypatch):
    monkeypatch.delenv("FEATCACHE_NOWHERE", raising=False)
    said = fault(content)
    for word in words:
        assert word in said


def test_a_default_may_be_named_by_others():
    Path("luigi.cfg").write_text("[DEFAULT]\nroot = /data\n[Dataset]\nname = x\npath = %(root)s/x\nsource = folder\n")
    assert configured_project().settings.dataset.path == Path("/data/x")
    assert set(configured_sections()["Dataset"]) == {"name", "path", "source"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(end):
    Path("luigi.cfg").write_bytes(end.join(["[Dataset]", "name = x", "[Features]", "copies = 2"]).encode())
    settings = configured_project().settings
    assert (settings.dataset.name, settings.features.copies) == ("x", 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkdir, "a folder"),
        (os.mkfifo, "a FIFO"),
        (lambda path: Path(path).symlink_to(path), "a link that leads in a circle"),
        (lambda path: Path(path).symlink_to("gone"), "a link to nothing"),
    ],
    ids=["folder", "FIFO", "loop", "dangling"],
)
@pytest.mark.parametrize("name", ["luigi.cfg", "client.cfg", "other.cfg"])
def test_a_file_that_luigi_would_pass_over_is_refused(make, words, name, monkeypatch):
    if name == "other.cfg":
        monkeypatch.setenv("LUIGI_CONFIG_PATH", name)
    make(name)
    with pytest.raises(SettingsError, match=f"{name}'? is not a file of settings but {words}"):
        configured_project()


@pytest.mark.parametrize(("named", "words"), [("gone.cfg", "nothing there"), (".", "a folder"), ("x.toml", "TOML")])
def test_a_named_file_that_is_none_stops_luigis_command_and_featcaches(folder, monkeypatch, capsys, named, words):
    (folder / "x.toml").touch()
    monkeypatch.setenv("LUIGI_CONFIG_PATH", named)
    assert main(["status"]) == 1
    said = capsys.readouterr().err
    assert f"LUIGI_CONFIG_PATH={named!r} is not a file" in said
    assert words in said
    if named == "gone.cfg":
        outcome = luigi(folder, "Submit")
        assert outcome.status == 2
        assert outcome.lines[-1] == said.replace("error: ", "").strip()
        assert not (folder / "artifacts").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[datset]\nname = x\n", ["unknown section [datset], did you mean [Dataset]?"]),
        ("[core]\nworkers = many\n", ["[core] workers", "'many'"]),
        ("[core]\nworkers = 0\n", ["[core] workers", "at least 1"]),
        ("[worker]\nwait_interval = soon\n", ["[worker] wait_interval", "'soon'"]),
        ("[retcode]\ntask_failed = x\n", ["[retcode] task_failed", "'x'"]),
        ("[resources]\ncores = all\n", ["[resources]", "'all'"]),
        ("[resources]\ngpu = 0\n", ["[resources] gpu", "at least 1"]),
    ],
)
def test_a_mistake_in_any_section_stops_luigis_command_in_one_line(folder, content, words):
    (folder / "luigi.cfg").write_text(content)
    outcome = luigi(folder, "Submit")
    assert (outcome.status, len(outcome.lines)) == (2, 1), outcome.err
    for word in words:
        assert word in outcome.lines[0]
    assert not (folder / "artifacts").exists()


def test_the_log_that_a_message_names_is_that_of_the_project_of_the_command_line(folder):
    outcome = luigi(folder, "IndexImages", "--scheduler-url", "http+unix://%2Fnowhere", Dataset_name="other")
    assert outcome.status == 40
    assert outcome.lines[-1].endswith(f"traceback in {folder}/artifacts/other/luigi.log")
    assert [path.name for path in (folder / "artifacts").iterdir()] == ["other"]


NAMES = st.sampled_from([*SECTIONS, "core", "DEFAULT", "Submit", "datset"])
KEYS = st.sampled_from([key for keys in SECTIONS.values() for key in keys])
LINES = st.one_of(
    NAMES.map(lambda name: f"[{name}]".encode()),
    st.tuples(KEYS, st.text(max_size=8)).map(lambda pair: f"{pair[0]} = {pair[1]}".encode("utf-8", "surrogatepass")),
    st.binary(max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=6).map(b"\n".join))
def test_any_bytes_are_a_project_or_one_line(content):
    Path("luigi.cfg").write_bytes(content)
    said = ""
    try:
        configured_project()
    except FeatcacheError as error:
        said = str(error)
    assert "\n" not in said
