"""`pipeline` with a backbone of NumPy: for runs whose subject is the disk, a lock or a signal, and not the network.

TensorFlow's import is most of what a small run costs. A batch takes as long as a network's, so that runs overlap as they do;
of heads' Keras models there is a file as large as theirs.
"""

import sys
import time
import types

import numpy as np

import featcache.stages.features
import featcache.stages.heads
import pipeline  # noqa: F401  # its stages are what runs


class NumpyBackbone:
    batch_size = 64

    def __init__(self, project):
        self.taps = {tap.name: (64,) for tap in project.settings.features.taps}

    def forward(self, images):
        time.sleep(0.2)
        corner = images[:, :8, :8, 0].reshape(len(images), 64).astype(np.float32)
        colour = images.mean(axis=(1, 2), dtype=np.float32).repeat(22, axis=1)[:, :64]
        return dict.fromkeys(self.taps, corner + colour)


featcache.stages.features.resolved_backbone = lambda project, progress: NumpyBackbone(project)

sys.modules["keras"] = types.SimpleNamespace(Model=object)
import featcache.training.heads.keras_models  # noqa: E402  # it names Keras, and needs it only to make a model

del sys.modules["keras"]
engine = types.SimpleNamespace(KerasEngine=None, accelerated=lambda: False)
sys.modules["featcache.training.heads.keras_engine"] = engine


class HeadModel:
    def __init__(self, bag, number):
        self.content = b"a Keras model" + bytes(20_000)

    def save(self, path):
        path.write_bytes(self.content)


featcache.training.heads.keras_models.head_model = HeadModel
featcache.stages.heads.import_keras = lambda log: None
