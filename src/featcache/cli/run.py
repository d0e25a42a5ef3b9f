"""`featcache run`: ``luigi --module pipeline Submit``, in fewer words."""

import argparse
import os
import sys

from featcache.cli.command import USAGE, Arguments, command


def _takes_all(parser: argparse.ArgumentParser) -> None:
    """Leave whatever else is on the command line to Luigi."""
    parser.set_defaults(stage_arguments=[])
    parser.allow_abbrev = False
    parser.usage = "featcache run [STAGE] [--rerun] [--Section-key VALUE ...]"


@command("run everything, or a stage: luigi --module pipeline Submit", _takes_all, error_code=USAGE)
def run(arguments: Arguments) -> int:
    """Run `luigi --module pipeline Submit`, or another stage that is named first; all else is passed on to it."""
    from featcache.errors import SettingsError
    from featcache.project import check_pipeline

    if arguments.json:
        raise SettingsError("--json: a run prints text: use featcache status --json afterwards")
    check_pipeline()
    words = list(arguments.stage_arguments)
    stage = words.pop(0) if words and not words[0].startswith("-") else "Submit"
    words += [flag for flag, given in (("--quiet", arguments.quiet), ("--verbose", arguments.verbose)) if given]
    sys.stdout.flush()
    # -P: a pipeline.py in the current folder is none of ours
    os.execv(sys.executable, [sys.executable, "-P", "-m", "luigi", "--module", "pipeline", stage, *words])  # noqa: S606
