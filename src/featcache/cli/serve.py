"""`featcache predict` and `featcache export-model`: what was trained, put to use."""

import argparse
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.cli import output
from featcache.cli.command import OK, PROBLEM, Command, argument, project_of
from featcache.core import console

if TYPE_CHECKING:
    from featcache.inference import Prediction


def _predict(arguments: argparse.Namespace) -> int:
    from featcache.inference import (
        Predictor,
        count_images,
        find_images,
        prediction_lines,
        prediction_record,
        set_aside_line,
        write_csv,
    )

    count, width = count_images(arguments.images)
    predictor = Predictor(project_of(arguments), output.progress(arguments))
    names, set_aside = predictor.class_names, 0

    def reported(told: "Iterator[Prediction]") -> "Iterator[Prediction]":
        nonlocal set_aside
        for item in told:
            if item.reason:
                set_aside += 1
                output.print_error(set_aside_line(item))
            yield item

    told = reported(predictor.predict(find_images(arguments.images), count))
    if arguments.csv is not None:
        told = write_csv(arguments.csv, told, names)
    try:
        if arguments.json:
            output.show_json_array(prediction_record(item, names) for item in told)
        else:
            console.show(prediction_lines(told, names, width))
    except OSError as error:  # nobody reads on; what fails in `told` itself has ended it
        if arguments.csv is not None:
            deque(told, maxlen=0)
        if not isinstance(error, BrokenPipeError):
            raise
    return PROBLEM if set_aside else OK


def _export_model(arguments: argparse.Namespace) -> int:
    from featcache.inference import export_model, exported_lines

    facts = export_model(
        project_of(arguments),
        arguments.path,
        output.progress(arguments),
        member=arguments.member,
        fixed_size=arguments.fixed_size,
    )
    return output.print_result(arguments, facts, lambda facts: exported_lines(arguments.path, facts))


PREDICT = Command(
    "predict",
    "what the trained ensemble says of images",
    "Say which class each image is, by the trained ensemble; starts TensorFlow.",
    _predict,
    [
        argument(
            "images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER", help="an image file, or a folder with some"
        ),
        argument("--csv", type=Path, metavar="FILE", help="write every class's probability to FILE, a CSV"),
    ],
    project=True,
)
EXPORT_MODEL = Command(
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
