"""A child process for test_cache_kill.py: writes a cache and is killed by SIGKILL, at a block boundary or from outside.

Arguments: the final path, the number of rows, the number of journaled blocks to die after (-1: never), seconds a batch.
"""

import os
import signal
import sys
import time
from pathlib import Path

from cache_files import make_header, make_rows, write_rows

from featcache.cache.layout import CHECKSUM_BYTES
from featcache.cache.writer import CacheWriter
from featcache.core.disk import disk


def main(path, count, die_after, pause):
    rows, real, journaled = make_rows(count), disk.pwrite, []

    def pwrite(descriptor, content, offset):
        real(descriptor, content, offset)
        if len(content) == CHECKSUM_BYTES:
            journaled.append(offset)
            if len(journaled) == die_after:
                os.kill(os.getpid(), signal.SIGKILL)

    disk.pwrite = pwrite
    with CacheWriter(path, make_header(rows, block_rows=4)) as writer:
        sys.stdout.write("writing\n")
        sys.stdout.flush()
        todo = [i for i in range(count) if not writer.durable[i]]
        for start in range(0, len(todo), 3):
            write_rows(writer, rows, todo[start : start + 3])
            time.sleep(pause)
        writer.publish({"host": "lab3", "seconds": 1.5})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
