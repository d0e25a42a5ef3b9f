"""Small real image files for tests."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image


def picture(height=24, width=32, seed=0):
    """A (height, width, 3) uint8 image: smooth, with a different colour in each corner."""
    y, x = np.mgrid[0:height, 0:width] / [[[max(height - 1, 1)]], [[max(width - 1, 1)]]]
    rgb = np.stack([255 * x, 255 * y, 255 * (1 - x)], axis=-1)
    return np.clip(rgb + np.random.default_rng(seed).normal(0, 2, rgb.shape), 0, 255).astype(np.uint8)


def encoded(image, form="PNG", **options):
    """The bytes of an image file; `image` is an array or a PIL image."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def make_folder(root: Path, counts=None, split="train", form="PNG"):
    """Write `split`/<class>/img_<n> below root, each image with a content of its own."""
    seed = 1000 * len(split)
    for name, count in (counts or {"ants": 3, "bees": 3}).items():
        (root / split / name).mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            seed += 1
            (root / split / name / f"img_{number}.{form.lower()}").write_bytes(encoded(picture(seed=seed), form))
    return root


def idx3(images):
    """The bytes of an idx3 file of (n, h, w) uint8 images."""
    return b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes() + images.tobytes()


def idx1(labels):
    """The bytes of an idx1 file of labels."""
    return b"\0\0\x08\x01" + np.array([len(labels)], ">u4").tobytes() + bytes(labels)


def make_idx(root: Path, images, labels, test=None, packed=False):
    """Write MNIST's files with the same images as test, with `test` as labels if given."""
    files = {"train-images-idx3-ubyte": idx3(images), "train-labels-idx1-ubyte": idx1(labels)}
    files["t10k-images-idx3-ubyte"] = idx3(images)
    if test is not None:
        files["t10k-labels-idx1-ubyte"] = idx1(test)
    for name, content in files.items():
        path = root / (name + ".gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return root


def table(images, labels=None, end="\n"):
    """The text of Kaggle's digit-recognizer table for (n, side, side) images."""
    pixels = [f"pixel{number}" for number in range(images[0].size)]
    lines = [",".join(([] if labels is None else ["label"]) + pixels)]
    for row, image in enumerate(images):
        lines.append(",".join(([] if labels is None else [str(labels[row])]) + [str(v) for v in image.ravel()]))
    return end.join(lines) + end


def greys(n=6, side=4):
    """(n, side, side) uint8 random images."""
    return np.random.default_rng(7).integers(0, 256, (n, side, side), dtype=np.uint8)


def forge_rows(folder, forge):
    """Replace the manifest's rows by `forge(table)`, checksum and all."""
    import pyarrow as pa
    import xxhash

    path, record = folder / "manifest.arrow", folder / "manifest.json"
    with pa.ipc.open_file(path) as file:
        forged = forge(file.read_all())
    with pa.ipc.new_file(path, forged.schema) as file:
        file.write_table(forged)
    content = path.read_bytes()
    checksum = {"bytes": len(content), "xxh3_128": xxhash.xxh3_128(content).hexdigest()}
    record.write_text(json.dumps({**json.loads(record.read_text()), "arrow": checksum}))
