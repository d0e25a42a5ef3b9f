"""Augmented copies: a random affine map and channel shift for each image, the same again for the same seed."""

import hashlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.settings import AugmentPolicy

_DRAWS = 10
_SUPPORT = 2  # pixels that a bicubic sample reaches to each side


def augment(
    image: npt.NDArray[np.uint8], policy: AugmentPolicy, seed: int, digest: str, copy: int
) -> npt.NDArray[np.uint8]:
    """Return one augmented copy of an image.

    `image`, which isn't changed, and the result are (h, w, 3) uint8 RGB; the result is a pure function of all arguments,
    with the image's content `digest` so that it doesn't depend on the row's place or its neighbours. `copy` is from 1.

    Example:
        >>> image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
        >>> first = augment(image, AugmentPolicy(rotation=15), seed=0, digest="ab", copy=1)
        >>> bool((first == augment(image, AugmentPolicy(rotation=15), seed=0, digest="ab", copy=1)).all())
        True
    """
    draws = _draws(seed, digest, copy)
    result = _affine(image, _matrices(policy, draws[None, :6], *image.shape[:2])[0])
    if policy.channel_shift:
        shifts = policy.channel_shift * draws[6:9]  # (3,)
        result = np.clip(np.rint(result + shifts), 0, 255).astype(np.uint8)
    if policy.flip and draws[9] < 0:
        result = np.ascontiguousarray(result[:, ::-1])
    return result


def _draws(seed: int, digest: str, copy: int) -> npt.NDArray[np.float64]:
    # Raw words: NumPy keeps a bit generator's stream over versions, but not what Generator makes of it. All are drawn
    # whatever the policy, so that switching one change on leaves the others as they were.
    key = hashlib.sha256(f"featcache augment {seed} {copy} {digest}".encode("ascii")).digest()
    words = np.random.Philox(key=int.from_bytes(key[:16], "little")).random_raw(_DRAWS)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1  # [-1, 1)


def _matrices(
    policy: AugmentPolicy, draws: npt.NDArray[np.float64], height: int, width: int
) -> npt.NDArray[np.float64]:
    """(b, 2, 3) maps from a result's pixel (x, y, 1), measured from the centre, to the image's; `draws` as for `affine_maps`."""
    angle, down, right, shear, zoom_y, zoom_x = draws.T
    angle, shear = np.radians(policy.rotation) * angle, policy.shear * shear
    rotate, shift, slant, scale = np.tile(np.eye(3), (4, len(draws), 1, 1))
    rotate[:, 0, 0] = rotate[:, 1, 1] = np.cos(angle)
    rotate[:, 0, 1] = np.sin(angle)
    rotate[:, 1, 0] = -rotate[:, 0, 1]
    shift[:, 0, 2] = policy.width_shift * width * right
    shift[:, 1, 2] = policy.height_shift * height * down
    slant[:, 0, 0], slant[:, 1, 0] = np.cos(shear), -np.sin(shear)
    scale[:, 0, 0], scale[:, 1, 1] = 1 + policy.zoom * zoom_x, 1 + policy.zoom * zoom_y
    matrices: npt.NDArray[np.float64] = rotate @ shift @ slant @ scale
    return matrices[:, :2]


def affine_maps(
    policy: AugmentPolicy, draws: npt.NDArray[np.float64], height: int, width: int
) -> npt.NDArray[np.float64]:
    """Return the affine maps of many images at once, in the form that ``keras.ops.image.affine_transform`` takes.

    `draws` is (b, 6) in -1..1, how much of each amount: rotation, down, right, shear, zoom by y, zoom by x; `height` and
    `width` of the images are in pixels. Channel shift and flip are not affine.

    Returns:
        (b, 8) float64: a0, a1, a2, b0, b1, b2, 0, 0. The result's pixel (x, y), counted from the upper left one's
        centre, is the image's at (a0 x + a1 y + a2, b0 x + b1 y + b2).
    """
    matrices = _matrices(policy, draws, height, width)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    matrices[:, :, 2] += middle - matrices[:, :, :2] @ middle
    return np.concatenate([matrices.reshape(-1, 6), np.zeros((len(draws), 2))], axis=1)


def _affine(image: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    if np.array_equal(matrix, np.eye(3)[:2]):
        return image.copy()
    height, width = image.shape[:2]
    middle = np.array([width / 2, height / 2])
    corners = np.array([[x, y, 1] for x in (-width / 2, width / 2) for y in (-height / 2, height / 2)])  # (4, 3)
    reached = corners @ matrix.T + middle  # (4, 2), x and y
    # Edge pixels are repeated outwards, as far as the map reaches: Keras' fill_mode="nearest".
    before = np.maximum(0, np.ceil(-reached.min(axis=0))).astype(int) + _SUPPORT
    after = np.maximum(0, np.ceil(reached.max(axis=0) - (width, height))).astype(int) + _SUPPORT
    padded = np.pad(image, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="edge")
    linear = matrix[:, :2]
    offset = matrix[:, 2] + middle + before - linear @ middle
    data = (*linear[0], offset[0], *linear[1], offset[1])
    moved = Image.fromarray(padded).transform(
        (width, height), Image.Transform.AFFINE, tuple(map(float, data)), Image.Resampling.BICUBIC
    )
    return np.array(moved)
