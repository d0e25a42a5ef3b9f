"""How fast convnets train: as they do, in float32, and with Keras' own batch normalisation.

    python benchmarks/convnet.py

Whole epochs of `featcache.training.convnet.trainer` on random 28x28 grey images: drawing rows and maps, augmentation,
forward and backward pass, Adam. Rounds are taken in turn, the first of each isn't counted. Prints a Markdown table for RESULTS.md.
"""

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from featcache.core.progress import Silent
from featcache.settings.schedules import ONE_CYCLE, Phase
from featcache.training.convnet import model, trainer
from featcache.training.convnet.plan import ConvNetPlan, TrainingData
from featcache.training.heads.partition import Partition

ROUNDS, BATCH = 4, 128
FUSED, KERAS = model.ChannelNormalization, keras.layers.BatchNormalization
# name -> precision, batch normalisation, steps a round
VARIANTS = {
    "as it trains with AVX512_BF16: bfloat16, fused": ("bfloat16", FUSED, 20),
    "float32, fused": ("float32", FUSED, 20),
    "float32, Keras' own": ("float32", KERAS, 20),
    "bfloat16, Keras' own": ("bfloat16", KERAS, 2),
}


def open_variant(precision: str, normal: type, steps: int):
    """Return a function that trains one epoch and returns images a second."""
    generator = np.random.default_rng(0)
    rows = BATCH * steps
    images = generator.integers(0, 256, (rows + 1, 28, 28, 1)).astype(np.uint8)
    labels = generator.integers(0, 10, rows + 1).astype(np.int32)
    data = TrainingData(
        images, labels, Partition(np.append(np.ones(rows, np.int32), np.int32(0)), (0, 1), by_group=False)
    )
    plan = ConvNetPlan(28, 1, 10, (Phase(3e-3, ROUNDS, ONE_CYCLE),), BATCH, precision)
    model.ChannelNormalization = normal  # type: ignore[misc,assignment]  # the variant
    network = trainer._compiled(plan, ([127.0], [74.0]), steps, 0, 0)
    training = trainer._Training(
        trainer._Batches(plan, data, np.flatnonzero(data.parts.trained(0)), 0, 0), plan, None, Silent()
    )

    def epoch(number: int) -> float:
        begun = time.perf_counter()
        network.fit(
            training.batches,
            epochs=number + 1,
            initial_epoch=number,
            validation_data=(images[-1:], labels[-1:]),
            callbacks=[training],
            shuffle=False,
            verbose=0,
        )
        return rows / (time.perf_counter() - begun)

    return epoch


if __name__ == "__main__":
    epochs = {name: open_variant(*variant) for name, variant in VARIANTS.items()}
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(ROUNDS):
        for name, epoch in epochs.items():
            speed = epoch(number)
            if number:
                speeds[name].append(speed)
    first = statistics.median(speeds[next(iter(VARIANTS))])
    print("| training steps | images/s | of the first |")
    print("| --- | --- | --- |")
    for name, found in speeds.items():
        print(f"| {name} | {statistics.median(found):,.0f} | {statistics.median(found) / first:.2f} |")
