"""`featcache export-model`: backbone and heads as one Keras model."""

import argparse
from pathlib import Path

from featcache.cli.command import Command, argument, project_of
from featcache.cli.output import print_result, progress


def _export_model(arguments: argparse.Namespace) -> int:
    from featcache.inference import export_model, exported_lines

    facts = export_model(
        project_of(arguments),
        arguments.path,
        progress(arguments),
        member=arguments.member,
        fixed_size=arguments.fixed_size,
    )
    return print_result(arguments, facts, lambda facts: exported_lines(arguments.path, facts))


COMMAND = Command(
    "export-model",
    "backbone and heads as one Keras model",
    "Write backbone, preprocessing, heads and ensemble as one model that needs no featcache.",
    _export_model,
    [
        argument("path", type=Path, metavar="PATH", help="a .keras file, or a new folder for a SavedModel"),
        argument("--member", metavar="NAME", help="one member alone; default: the ensemble"),
        argument("--fixed-size", action="store_true", help="take only images of image_size; resize nothing"),
    ],
    project=True,
)
