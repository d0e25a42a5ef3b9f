"""`featcache predict` and `featcache export-model`: what was trained, put to use."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.commands import OK, PROBLEM, screen
from featcache.commands.state import add_settings

if TYPE_CHECKING:
    from featcache.predict import Told


def add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache predict`."""
    parser = commands.add_parser(
        "predict",
        help="what the trained ensemble says of images",
        description="Say which class each image is, by the trained ensemble; starts TensorFlow.",
    )
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER", help="an image file, or a folder with some"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every class's probability to FILE, a CSV")
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(command=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    from featcache import predict
    from featcache.configuration import configured_project

    count, width = predict.count_images(arguments.images)
    predictor = predict.Predictor(configured_project(arguments.overrides), screen.Notices())
    names, set_aside = predictor.class_names, 0

    def reported(told: "Iterator[Told]") -> "Iterator[Told]":
        nonlocal set_aside
        for item in told:
            if item.reason:
                set_aside += 1
                screen.complain(predict.set_aside_line(item))
            yield item

    told = reported(predictor.predict(predict.find_images(arguments.images), count))
    if arguments.csv is not None:
        told = predict.into_csv(arguments.csv, told, names)
    if arguments.json:
        screen.show_json_array(predict.told_record(item, names) for item in told)
    else:
        screen.show(predict.told_lines(told, names, width))
    return PROBLEM if set_aside else OK


def add_export_model(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache export-model`."""
    parser = commands.add_parser(
        "export-model",
        help="backbone and heads as one Keras model",
        description="Write backbone, preprocessing, heads and ensemble as one model that needs no featcache.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a .keras file, or a new folder for a SavedModel")
    parser.add_argument("--member", metavar="NAME", help="one member alone; default: the ensemble")
    parser.add_argument("--fixed-size", action="store_true", help="take only images of image_size; resize nothing")
    add_settings(parser)
    parser.set_defaults(command=_export_model)


def _export_model(arguments: argparse.Namespace) -> int:
    from featcache.configuration import configured_project
    from featcache.export_model import export_model, exported_lines

    facts = export_model(
        configured_project(arguments.overrides),
        arguments.path,
        screen.Notices(),
        member=arguments.member,
        fixed_size=arguments.fixed_size,
    )
    screen.show(exported_lines(arguments.path, facts))
    return OK
