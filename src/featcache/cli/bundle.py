"""`featcache bundle`: the trained ensemble as a folder for a notebook without internet."""

from pathlib import Path

from featcache.cli.command import Arguments, argument, command, print_result, progress, project_of


@command(
    "model, script and notebook that predict without featcache",
    argument("folder", type=Path, metavar="DIR", help="the new folder, to upload as a Kaggle data set"),
    project=True,
)
def run(arguments: Arguments) -> int:
    """Write a folder that predicts a hidden test set where there is neither network nor featcache."""
    from featcache.inference import bundle_lines, write_bundle

    facts = write_bundle(project_of(arguments), arguments.folder, progress(arguments))
    return print_result(arguments, facts, lambda facts: bundle_lines(arguments.folder, facts))
