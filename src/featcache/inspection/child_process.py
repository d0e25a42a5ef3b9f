"""This Python as a child process, so that what crashes or hangs there does neither here."""

import signal

from featcache.core.keras_import import prepare_gpu
from featcache.core.system import child_environment


def environment() -> dict[str, str]:
    """Return the environment of a child that may import Keras, and says all that TensorFlow has to say."""
    prepare_gpu()
    return {**child_environment(), "TF_CPP_MIN_LOG_LEVEL": "0"}


def failure(code: int) -> str:
    """Return how a child ended that should have gone on, e.g. ``crashed with SIGSEGV``."""
    return f"crashed with {signal.Signals(-code).name}" if code < 0 else f"failed with exit status {code}"
