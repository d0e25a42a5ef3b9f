"""In every process that finds it: an image with POISON inside ends the process that decodes it, as a broken decoder would."""

import os
import signal

from featcache.dataset import decoding

real_decode = decoding.decode_rgb


def decode_or_die(content, *rest):
    if b"POISON" in content:
        os.kill(os.getpid(), signal.SIGKILL)
    return real_decode(content, *rest)


decoding.decode_rgb = decode_or_die
