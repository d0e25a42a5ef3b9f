"""Every network of `keras.applications` built and run once with random weights, each in a process of its own.

    python benchmarks/architectures.py [NAME ...]

For each: the shapes of its default taps, whether all values are finite, and seconds to build and to run two images of its
least size, or of 96 pixels. Prints Markdown; ends with status 1 where one failed. The largest need 10 GB.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from featcache.settings.architectures import architectures


def run_one(name: str) -> None:
    """Build and run one network; print its table row."""
    import numpy as np

    from featcache.core.keras_import import import_keras
    from featcache.core.progress import Silent
    from featcache.features.weights import resolve_weights
    from featcache.settings.specs import FeaturesSpec

    import_keras(Path(os.devnull))
    from featcache.features.backbone import load_backbone

    side = max(96, architectures()[name].minimum)
    spec, begun = FeaturesSpec(name, "random", image_size=side), time.perf_counter()
    backbone = load_backbone(spec, resolve_weights(spec, Silent()), "float32", batch_size=2)
    built = time.perf_counter()
    features = backbone.forward(np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8))
    seconds = time.perf_counter() - built
    shapes = ", ".join(f"{tap} {'x'.join(map(str, shape))}" for tap, shape in backbone.taps.items())
    finite = all(np.isfinite(values).all() for values in features.values())
    differ = all((values[0] != values[1]).any() for values in features.values())
    state = "ok" if finite and differ else "not finite" if differ else "all images alike"
    print(f"| {name} | {side} | {shapes} | {state} | {built - begun:.1f} | {seconds:.2f} |", flush=True)
    sys.exit(state != "ok")


def main(names: list[str]) -> int:
    """Run each in a process of its own, so that one which fails, or takes all memory, leaves the others."""
    print("| network | side | taps | state | build, s | run, s |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    failed = []
    for name in names or list(architectures()):
        command = [sys.executable, __file__, "--one", name.lower()]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)  # our own words
        if done.returncode:
            failed.append(name)
            print(f"| {name} | | | FAILED: {(done.stderr.splitlines() or ['?'])[-1][:200]} | | |", flush=True)
    return len(failed) > 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2])
    sys.exit(main(sys.argv[1:]))
