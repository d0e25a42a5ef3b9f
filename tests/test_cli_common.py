"""What every command takes: `--json` is one JSON document and nothing else, `--quiet` and `--verbose`; over ALL commands."""

import argparse
import json
import logging

import pytest
from projects import copied_project

from featcache.cli.app import build_parser, main
from featcache.core.progress import Silent
from featcache.inspection.doctor import report
from featcache.stages import find_duplicates
from pipeline.config import current_project


def commands():
    actions = build_parser()._actions
    return next(action.choices for action in actions if isinstance(action, argparse._SubParsersAction))


# Each command once, with what it needs to give an answer; {cache}, {new} and {images} are filled in.
CASES = {
    "init": ["{photos}", "--output", "{new}.cfg"],
    "run": [],
    "show": ["{cache}"],
    "ls": ["{artifacts}"],
    "stats": ["{cache}"],
    "pca": ["{cache}", "--components", "2"],
    "neighbours": ["{cache}", "disc-0.png"],
    "status": [],
    "verify": ["{cache}"],
    "repair": ["{cache}"],
    "du": [],
    "gc": [],
    "export": ["{cache}", "{new}"],
    "plan": [],
    "leaderboard": [],
    "runs": [],
    "suspects": [],
    "duplicates": [],
    "predict": ["{images}"],
    "explain": ["{image}"],
    "export-model": ["{new}.keras"],
    "bundle": ["{new}"],
    "doctor": [],
    "completion": ["bash"],
}


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    """A finished project with luigi.cfg in its folder."""
    project = copied_project(finished, tmp_path_factory.mktemp("common") / "project")
    with project.in_force():
        find_duplicates(current_project(), Silent())
    sections = [
        f"[{name}]\n" + "".join(f"{key} = {text}\n" for key, text in values.items())
        for name, values in project.settings.items()
    ]
    (project.folder / "luigi.cfg").write_text("\n".join(sections))
    return project


def cache(project):
    return next((project.artifacts / "features").glob("test-*.h5"))


def words(project, new, name):
    places = {
        "cache": cache(project),
        "artifacts": project.folder / "artifacts",
        "images": project.folder / "photos/test",
        "image": next((project.folder / "photos/test").glob("*.png")),
        "photos": project.folder / "photos",
        "new": new,
    }
    return [name, *(word.format(**places) for word in CASES[name])]


def test_every_command_is_among_the_cases():
    assert set(CASES) == set(commands()), "a new command needs a line in CASES"


@pytest.mark.parametrize("name", sorted(set(commands()) - {"run"}))  # which becomes a process of Luigi's
def test_json_is_one_document_and_nothing_else(project, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(project.folder)
    assert main([*words(project, tmp_path / "new", name), "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert record, "an answer"
    assert isinstance(record, dict | list)
    assert captured.err == "", "quiet: no progress"


@pytest.mark.parametrize("name", list(commands()))
def test_an_error_leaves_standard_output_empty(name, tmp_path, monkeypatch, capsys):
    """With `--json`, too: a program sees the exit code, and no half of a document."""
    monkeypatch.setattr(report, "hardware_checks", lambda setting, progress: iter(()))  # seconds, and no error of ours
    monkeypatch.chdir(tmp_path)
    (tmp_path / "luigi.cfg").write_text("[Heads]\nfolds = several\n")
    places = dict.fromkeys(("cache", "artifacts", "images", "image", "photos", "new"), str(tmp_path / "nothing/here"))
    code = main([name, *(word.format(**places) for word in CASES[name]), "--json"])
    captured = capsys.readouterr()
    if code == 0 or name in ("verify", "doctor"):  # needs no project, or says what is wrong in its answer
        assert json.loads(captured.out) is not None
    else:
        assert captured.out == ""
        assert captured.err.startswith("featcache: error: ")
        assert len(captured.err.splitlines()) == 1


def test_quiet_and_verbose_contradict(capsys):
    assert main(["ls", "-q", "-v"]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_verbose_says_where_an_error_arose(tmp_path, capsys):
    before = logging.root.handlers[:]
    try:
        assert main(["show", str(tmp_path / "none.h5"), "-v"]) == 1
    finally:
        logging.root.handlers[:] = before
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("featcache: error: ")


def test_the_help_lists_every_command_once_and_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    listed = [line.split()[0] for line in captured.err.splitlines() if line.startswith("  ") and line[2].isalpha()]
    assert listed[1:] == list(commands()), "after COMMAND itself"
    assert max(map(len, captured.err.splitlines())) <= 80
