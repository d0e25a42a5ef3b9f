"""`featcache export-model`: backbone and heads as one Keras model."""

from pathlib import Path

from featcache.cli.command import Arguments, argument, command, print_result, progress, project_of


@command(
    "backbone and heads as one Keras model",
    argument("path", type=Path, metavar="PATH", help="a .keras file, or a new folder for a SavedModel"),
    argument("--member", metavar="NAME", help="one member alone; default: the ensemble"),
    argument("--fixed-size", action="store_true", help="take only images of image_size; resize nothing"),
    project=True,
)
def run(arguments: Arguments) -> int:
    """Write backbone, preprocessing, heads and ensemble as one model that needs no featcache."""
    from featcache.inference import export_model, exported_lines

    facts = export_model(
        project_of(arguments),
        arguments.path,
        progress(arguments),
        member=arguments.member,
        fixed_size=arguments.fixed_size,
    )
    return print_result(arguments, facts, lambda facts: exported_lines(arguments.path, facts))
