"""A backbone without TensorFlow that tells colours apart, for whole runs in one process."""

import numpy as np

from featcache.features import processor


class Means:
    """Its taps have the mean of each channel."""

    batch_size = 16
    device = processor()

    def __init__(self, backbone):
        self.taps = {tap.name: (64,) for tap in backbone.spec.taps}

    def forward(self, images):
        return {name: images.mean(axis=(1, 2), dtype=np.float32).repeat(22, axis=1)[:, :64] for name in self.taps}
