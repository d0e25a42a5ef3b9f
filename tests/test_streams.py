"""What is printed can get lost: on a full disk, in a closed pipe, in another encoding. The work can't."""

import csv
import io
import os
import signal
import subprocess
import sys
import time

import pytest
import runs
from command import command, environment, photos
from projects import copied_project, small_project, write_photos
from warm_start import Process

from featcache.cli import main
from featcache.core import console, streams
from featcache.errors import StorageError

FEATCACHE = [sys.executable, "-m", "featcache.cli"]
ENCODINGS = ("latin-1", "utf-16")


def shell(script, words, folder, **variables):
    """Run `script` by bash, in which ``"$@"`` is the command; its status is that of the command, in a pipe too."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script, "bash", *words],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return photos(write_photos(tmp_path_factory.mktemp("photos")))


@pytest.mark.parametrize(
    "redirected",
    [
        ">/dev/full", ">&-", "<&- >&- 2>&-", "| true", "2>&1 | head -c 1", "--verbose >/dev/full 2>&1",
    ],
)  # fmt: skip
def test_a_stage_is_done_whatever_becomes_of_the_screen(tmp_path, settings, redirected):
    done = shell(f'"$@" {redirected}', command("IndexImages", **settings), tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "artifacts/photos/manifest.json").is_file()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_characters_that_an_encoding_lacks_are_replaced(tmp_path, settings, encoding):
    (tmp_path / "fotos-日本").symlink_to(settings["Dataset_path"])
    words = command("IndexImages", **{**settings, "Dataset_path": "fotos-日本", "Dataset_groups": "日本.csv:é"})
    done = shell('"$@"', words, tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 30
    said = done.stderr.decode(encoding.partition(":")[0]).splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("featcache: fotos-")
    assert "the table of [Dataset] groups, is missing" in said[0]


def test_a_whole_run_in_forked_stages_ends_well_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMPY_BACKBONE", "1")
    project = small_project(tmp_path)
    words = ["luigi", "--module", "numpy_run", *runs.command(project, workers=2)]
    with full_disk() as out, open(tmp_path / "err", "w") as err:
        assert Process(words, tmp_path, environment(), out.fileno(), err.fileno()).poll(120) == 0
    assert (tmp_path / "err").read_text() == ""
    assert (project.artifacts / "submission.csv").is_file()


def test_a_mistake_has_its_status_on_a_full_disk(tmp_path):
    assert shell('"$@" 2>/dev/full', command("Sumbit"), tmp_path).returncode == 2


@pytest.mark.parametrize("flag", ["--help", "--help-all"])
def test_luigis_help_in_a_pipe_that_ends_early(tmp_path, flag):
    done = shell('"$@" | head -1', command(flag), tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage: ")


@pytest.mark.parametrize(
    ("arguments", "reader"),
    [
        ("--help", "true"), ("completion bash", "head -c 1"), ("plan --help", "head -c 1"), ("status --json", "true"),
        ("status", "true"), ("status", "head -c 1"), ("--version", "true"),
    ],
)  # fmt: skip
def test_a_command_ends_quietly_when_nobody_reads_on(tmp_path, arguments, reader):
    done = shell(f'"$@" | {reader}', [*FEATCACHE, *arguments.split()], tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_commands_status_outlives_its_reader(tmp_path):
    done = shell('"$@" | true', [*FEATCACHE, "status", "--check"], tmp_path)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "lost"),
    [
        *((words, ">/dev/full") for words in ("--help", "completion bash", "status --json", "status", "--version", "verify luigi.cfg")),
        *((words, ">&-") for words in ("--help", "status", "verify luigi.cfg")),
    ],
)  # fmt: skip
def test_an_answer_that_is_lost_is_an_error_in_one_line(tmp_path, arguments, lost):
    (tmp_path / "luigi.cfg").touch()
    done = shell(f'"$@" {lost}', [*FEATCACHE, *arguments.split()], tmp_path)
    assert done.returncode == (2 if arguments.startswith("verify") else 1)
    assert done.stderr.startswith(b"featcache: error: could not print the result: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("lost", ["2>/dev/full", "2>&-"])
def test_complaints_can_get_lost(tmp_path, lost):
    assert shell(f'"$@" {lost}', [*FEATCACHE, "show", "none.h5"], tmp_path).returncode == 1
    assert shell(f'"$@" {lost}', [*FEATCACHE, "nonsense"], tmp_path).returncode == 2
    assert shell(f'"$@" {lost}', [*FEATCACHE, "--version"], tmp_path).stdout.startswith(b"featcache ")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_command_answers_in_any_encoding(tmp_path, encoding):
    (tmp_path / "日本").mkdir()
    done = shell('"$@"', [*FEATCACHE, "ls", "日本"], tmp_path, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding.partition(":")[0]).startswith("no feature caches in ")


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def full_disk():
    return open("/dev/full", "w")


@pytest.mark.parametrize("open_stream", [closed_pipe, full_disk])
def test_predictions_are_written_whole_although_nobody_reads_them_on_the_screen(
    finished, tmp_path, monkeypatch, capsys, open_stream
):
    project = copied_project(finished, tmp_path / "project")
    overrides = [
        word
        for section, values in project.settings.items()
        for key, text in values.items()
        for word in ("--set", f"{section}.{key}={text}")
    ]
    with open_stream() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        status = main(["predict", str(project.folder / "photos/test"), "--csv", str(tmp_path / "out.csv"), *overrides])
    said = capsys.readouterr().err
    assert status == (0 if open_stream is closed_pipe else 1)
    assert ("could not print the result" in said) == (status == 1)
    with open(tmp_path / "out.csv", newline="") as table:
        assert len(list(csv.reader(table))) == 1 + 9


def test_ctrl_c_in_a_command_is_one_quiet_line(tmp_path):
    os.mkfifo(tmp_path / "wait")
    # ready only where it waits: an interrupt during an import may be lost in a callback, as Python has it
    waits = "import featcache.cli.status as s\ns.project_of = lambda _: (print('ready', flush=True), open('wait'))\n"
    run = f"{waits}from featcache.cli import main\nraise SystemExit(main(['status']))"
    process = subprocess.Popen(
        [sys.executable, "-c", run], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, b"featcache: interrupted\n")


class Failing(io.StringIO):
    """A stream that fails in a way of its own."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error

    def isatty(self):
        raise self.error


@pytest.mark.parametrize(
    "error", [OSError(5, "I/O error"), BlockingIOError(11, "busy"), ValueError("closed"), BrokenPipeError(32, "gone")]
)
def test_a_stream_swallows_what_its_own_raises_and_a_strict_one_tells(error, monkeypatch):
    monkeypatch.setattr(sys, "stdout", streams.Stream(Failing(error)))
    console.say("words", "bold")
    assert not sys.stdout.isatty()
    strict = streams.Stream(Failing(error), strict=True)
    with pytest.raises(BrokenPipeError if isinstance(error, BrokenPipeError) else StorageError):
        strict.write("words")


def test_no_streams_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console.say("words", "bold")
    console.say("words", "bold", error=True)
    assert main(["status"]) == 1
