"""``python -m featcache.dataset.decoding.decode_check``: decodes images, for whoever must know which one ends the process that does.

The task comes as JSON on standard input: source, path, size, and location and digest of each image. The number of each
is printed before it is decoded, and at last how many there were.
"""

import json
import sys
from pathlib import Path

from featcache.dataset.sources.source import open_source
from featcache.errors import FeatcacheError
from featcache.settings import DatasetSpec


def main() -> None:
    """Read the task, decode."""
    task = json.loads(sys.stdin.read())
    path = Path(task["path"]) if task["path"] is not None else None
    load = open_source(DatasetSpec(source=task["source"], path=path)).load
    for number, (location, digest) in enumerate(task["images"]):
        _say(number)
        try:
            load(location, digest, task["size"])
        except FeatcacheError:
            continue
    _say(len(task["images"]))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
