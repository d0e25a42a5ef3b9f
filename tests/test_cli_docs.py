"""docs/cli.md and `featcache --help` say the same."""

import argparse
import re
from pathlib import Path

import pytest

from featcache.cli.app import build_parser, main

DOCS = (Path(__file__).parent.parent / "docs/cli.md").read_text()
COMMON = {"--help", "--json", "--quiet", "--verbose"}  # documented once, at the head of the page
SECTIONS = dict(re.findall(r"^## featcache ([\w-]+)\n(.*?)(?=^## |\Z)", DOCS, re.MULTILINE | re.DOTALL))


def commands():
    actions = build_parser()._actions
    return next(action.choices for action in actions if isinstance(action, argparse._SubParsersAction))


def test_every_command_has_a_section_and_every_section_a_command():
    assert list(SECTIONS) == list(commands()), "in the order of --help"


@pytest.mark.parametrize("name", list(commands()))
def test_a_section_names_every_argument_and_no_other(name):
    documented = set(re.findall(r"`?(--[a-z][a-z-]*)", SECTIONS[name]))
    options = {text for action in commands()[name]._actions for text in action.option_strings if text.startswith("--")}
    assert options - COMMON <= documented
    assert options >= COMMON
    assert documented <= options | {"--module"}
    usage = next((line for line in SECTIONS[name].splitlines() if f"`featcache {name}" in line), "")
    for action in commands()[name]._actions:
        if not action.option_strings:
            assert str(action.metavar) in usage, f"{name}: {action.metavar} is not in {usage!r}"


def test_the_head_names_what_every_command_takes():
    assert set(re.findall(r"--[a-z]+", DOCS.partition("\n## ")[0])) >= COMMON


@pytest.mark.parametrize("name", list(commands()))
def test_every_argument_has_a_help_text(name, capsys):
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: featcache {name}")
    assert commands()[name].description
    assert all(action.help for action in commands()[name]._actions)
