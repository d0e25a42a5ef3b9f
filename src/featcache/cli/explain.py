"""`featcache explain`: where in an image the class is seen."""

from pathlib import Path

from featcache.cli.command import Arguments, argument, command, print_result, progress, project_of


@command(
    "where in an image its class is seen",
    argument("image", type=Path, metavar="IMAGE", help="an image file"),
    argument(
        "--output", type=Path, metavar="PNG", help="write the image, orange where it speaks for the class, blue against"
    ),
    argument("--label", metavar="CLASS", help="the class to explain; without it the predicted one"),
    project=True,
)
def run(arguments: Arguments) -> int:
    """Show an image's class, and where the linear members of the ensemble see it; starts TensorFlow."""
    from featcache.inference import Explainer, explanation_lines, explanation_record, write_overlay

    explainer = Explainer(project_of(arguments), progress(arguments))
    explanation = explainer.explain_file(arguments.image, arguments.label)
    if arguments.output is not None:
        write_overlay(arguments.output, explanation)
    record = explanation_record(explanation, explainer.class_names, str(arguments.image))
    return print_result(arguments, record, explanation_lines)
