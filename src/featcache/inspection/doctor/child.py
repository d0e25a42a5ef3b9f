"""What the child process runs: ``python -m featcache.inspection.doctor.child``. It imports TensorFlow, computes, and says what it saw.

One line of JSON on standard output; what TensorFlow's native code complains of goes to standard error. So doctor can
neither hang nor crash with it.
"""

import json
import sys
from typing import Any


def main() -> None:
    """Import Keras and its backend, compute a small convolution and its gradient, tell what there is."""
    import keras

    facts: dict[str, Any] = {"backend": keras.backend.backend(), "capability": None, "gpus": [], "cuda": None}
    from featcache.features import gpu_capability

    facts["capability"] = gpu_capability()
    if facts["backend"] == "tensorflow":
        import tensorflow as tf

        facts["gpus"] = [_name(tf, gpu) for gpu in tf.config.list_physical_devices("GPU")]
        facts["cuda"] = tf.test.is_built_with_cuda()
    layer = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    layer.compile("sgd", "mse")
    layer.fit(keras.ops.ones((2, 8, 8, 3)), keras.ops.ones((2, 1)), verbose=0)
    sys.stdout.write(json.dumps(facts) + "\n")


def _name(tf: Any, gpu: Any) -> str:
    return str(tf.config.experimental.get_device_details(gpu).get("device_name") or gpu.name)


if __name__ == "__main__":
    main()
