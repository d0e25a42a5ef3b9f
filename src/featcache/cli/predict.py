"""`featcache predict`: the class of each image, by the trained ensemble."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.cli.command import (
    OK,
    PROBLEM,
    Arguments,
    argument,
    command,
    print_error,
    print_json_array,
    progress,
    project_of,
)
from featcache.core import console

if TYPE_CHECKING:
    from featcache.inference import Prediction


@command(
    "classify images by the trained ensemble",
    argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER", help="an image file, or a folder of some"),
    argument("--csv", type=Path, metavar="FILE", help="write every class's probability to FILE, a CSV"),
    project=True,
)
def run(arguments: Arguments) -> int:
    """Show the class of each image, by the trained ensemble; starts TensorFlow."""
    from featcache.inference import (
        Predictor,
        count_images,
        find_images,
        prediction_lines,
        prediction_record,
        rejected_line,
        write_csv,
    )

    count, width = count_images(arguments.images)
    predictor = Predictor(project_of(arguments), progress(arguments))
    names, rejected = predictor.class_names, 0

    def reported(predictions: "Iterator[Prediction]") -> "Iterator[Prediction]":
        nonlocal rejected
        for item in predictions:
            if item.reason:
                rejected += 1
                print_error(rejected_line(item))
            yield item

    predictions = reported(predictor.predict(find_images(arguments.images), count))
    if arguments.csv is not None:
        predictions = write_csv(arguments.csv, predictions, names, several=predictor.several)
    try:
        if arguments.json:
            print_json_array(prediction_record(item, names) for item in predictions)
        else:
            console.show(prediction_lines(predictions, names, width))
    except OSError as error:  # nobody reads on; what fails in `predictions` itself has ended it
        if arguments.csv is not None:
            deque(predictions, maxlen=0)
        if not isinstance(error, BrokenPipeError):
            raise
    return PROBLEM if rejected else OK
