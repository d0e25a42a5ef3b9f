"""``python -m featcache.dataset.decoding.decode_check``: decodes images, for whoever must know which one ends the process that does.

The task comes as JSON on standard input: dataset (fields of `DatasetSpec`), size, and location and digest of each image. The number of each
is printed before it is decoded, and at last how many there were.
"""

import json
import sys
from functools import partial
from pathlib import Path

from featcache.dataset.sources.source import open_source
from featcache.errors import FeatcacheError
from featcache.settings import DatasetSpec


def main() -> None:
    """Read the task, decode."""
    task = json.loads(sys.stdin.read())
    path = Path(task["dataset"]["path"]) if task["dataset"]["path"] is not None else None
    say = partial(print, flush=True)
    load = open_source(DatasetSpec(**{**task["dataset"], "path": path})).load
    for number, (location, digest) in enumerate(task["images"]):
        say(number)
        try:
            load(location, digest, task["size"])
        except FeatcacheError:
            continue
    say(len(task["images"]))


if __name__ == "__main__":
    main()
