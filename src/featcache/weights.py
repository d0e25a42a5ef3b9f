"""Which weights a backbone gets: found, downloaded or made up, and the digest that stands for them in keys.

Weights are resolved once, inside extraction (`resolve_weights`), and recorded; scheduling then knows their digest from
that record (`known_digest`) without network, Keras or a second look at anything but the user's own file.
"""

import difflib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from featcache import keys, paths
from featcache.architectures import Architecture, backbone_settings, find_architecture, is_model_file
from featcache.download import download
from featcache.errors import WeightsError, WeightsUnavailableError
from featcache.progress import Progress
from featcache.specs import FeaturesSpec

URL_VARIABLE = "FEATCACHE_WEIGHTS_URL"
SEED = 0
RANDOM_VERSION = 1
_NAMED = ("auto", "imagenet", "random")


@dataclass(frozen=True)
class ResolvedWeights:
    """Weights that are on this machine.

    Attributes:
        kind: ``imagenet``, ``file`` (a notop HDF5 file), ``model`` (the backbone is a ``.keras`` file) or ``random``.
        digest: SHA-256 of the file, or the key of what makes random weights; 64 hexadecimal digits.
        path: the file; None for ``random``.
        seed: of ``random``; None otherwise.
        setting: ``[Features] weights`` as it was when they were resolved.
        backbone: ``[Features] backbone`` as it was then.
        note: one line for people, e.g. why ``auto`` took random weights; "" where there is nothing to say.
    """

    kind: str
    digest: str
    path: Path | None
    seed: int | None
    setting: str
    backbone: str
    note: str = ""

    def record(self) -> dict[str, object]:
        """Return what `known_digest` needs in later runs, as JSON values; without paths of this machine's cache."""
        return {
            "setting": self.setting,
            "backbone": self.backbone,
            "kind": self.kind,
            "digest": self.digest,
            "note": self.note,
            "stat": list(_stat(self.path)) if self.path is not None else None,
        }


def resolve_weights(spec: FeaturesSpec, progress: Progress) -> ResolvedWeights:
    """Find or download the weights that `spec` asks for.

    ``auto`` takes the ImageNet weights if they are cached or can be downloaded, else random ones, with a notice.

    Raises:
        BackboneError: the backbone is unknown or its settings contradict each other.
        WeightsUnavailableError: ``imagenet``, and the file is neither cached nor can be downloaded.
        WeightsError: a file is missing, unreadable, or (in Keras' cache) not the one that Keras publishes.
        StorageError: the download can't be written.
    """
    backbone_settings(spec)
    if is_model_file(spec.backbone):
        return _from_file(spec, "model", _named_file(spec), "[Features] backbone")
    architecture = find_architecture(spec.backbone)
    if spec.weights == "random":
        return _random(spec, architecture, "random weights: enough to try things, not to compete")
    if spec.weights == "imagenet":
        return _imagenet(spec, architecture, progress)
    if spec.weights == "auto":
        return _imagenet_or_random(spec, architecture, progress)
    return _from_file(spec, "file", _named_file(spec), "[Features] weights")


def known_digest(spec: FeaturesSpec, recorded: Mapping[str, object] | None) -> str | None:
    """Return the digest of the weights as far as it is known without network; None means: resolve them.

    Random weights are known at once. A user's file counts by its content: another one under the same name has another
    digest, a touched one the same (the record's size and time only save reading it); where it is gone, the record
    stands. ``imagenet`` and ``auto`` are what the record says as long as the settings are the recorded ones.

    Args:
        spec: the settings now.
        recorded: `ResolvedWeights.record` of an earlier run; None where there is none.

    Raises:
        BackboneError: as `backbone_settings`.
    """
    backbone_settings(spec)
    same = recorded is not None and (recorded.get("setting"), recorded.get("backbone")) == _settings(spec)
    digest = str(recorded["digest"]) if recorded is not None and same and "digest" in recorded else None
    if spec.weights == "random":
        return _random_digest(find_architecture(spec.backbone))
    if not is_model_file(spec.backbone) and spec.weights in _NAMED:
        return digest
    file = _named_file(spec)
    try:
        size, mtime_ns = _stat(file)
        if digest is not None and recorded is not None and recorded.get("stat") == [size, mtime_ns]:
            return digest
        return _file_digest(file, size, mtime_ns)
    except OSError:
        return digest


def _named_file(spec: FeaturesSpec) -> Path:
    if is_model_file(spec.backbone):
        return paths.expanded(Path(spec.backbone), "[Features] backbone")
    return paths.expanded(Path(spec.weights), "[Features] weights")


def _settings(spec: FeaturesSpec) -> tuple[str, str]:
    """What a record is valid for; a network's name counts in any case, a path as it is written."""
    return spec.weights, spec.backbone if is_model_file(spec.backbone) else spec.backbone.lower()


def _resolved(
    spec: FeaturesSpec, kind: str, digest: str, path: Path | None, seed: int | None, note: str = ""
) -> ResolvedWeights:
    setting, backbone = _settings(spec)
    return ResolvedWeights(kind, digest, path, seed, setting, backbone, note)


def _random(spec: FeaturesSpec, architecture: Architecture, note: str) -> ResolvedWeights:
    return _resolved(spec, "random", _random_digest(architecture), None, SEED, note)


def _random_digest(architecture: Architecture) -> str:
    made_from = {"weights": "he-normal", "backbone": architecture.key, "seed": SEED, "version": RANDOM_VERSION}
    return keys.digest(made_from)


def _from_file(spec: FeaturesSpec, kind: str, path: Path, setting: str) -> ResolvedWeights:
    try:
        digest = _file_digest(path, *_stat(path))
    except IsADirectoryError as error:
        raise WeightsError(f"{setting}: expected a file; {path} is a folder") from error
    except FileNotFoundError as error:
        near = difflib.get_close_matches(str(path), _NAMED, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        expected = f"expected {', '.join(_NAMED)} or the path of a file" if kind == "file" else "expected a file"
        raise WeightsError(f"{setting}: {expected}; there is no {path}{hint}") from error
    except OSError as error:
        raise WeightsError(f"{setting}: {path} can't be read: {paths.fault(error)}") from error
    return _resolved(spec, kind, digest, path, None)


def _imagenet_or_random(spec: FeaturesSpec, architecture: Architecture, progress: Progress) -> ResolvedWeights:
    try:
        return _imagenet(spec, architecture, progress)
    except WeightsUnavailableError as error:
        note = (
            f"RANDOM WEIGHTS: {error}. Going on with random weights: enough to try things, but on photos far behind "
            "trained ones; then set [Features] weights = imagenet (or the path of a weights file)"
        )
        progress.notice(note)
        return _random(spec, architecture, note)


def _imagenet(spec: FeaturesSpec, architecture: Architecture, progress: Progress) -> ResolvedWeights:
    path = imagenet_file(architecture)
    if paths.is_file(path):
        check_cached(path, architecture)
    else:
        _fetch(path, architecture, progress)
    return _resolved(spec, "imagenet", _file_digest(path, *_stat(path)), path, None)


def _fetch(path: Path, architecture: Architecture, progress: Progress) -> None:
    url = imagenet_url(architecture)
    try:
        download(url, path, digest=architecture.digest, progress=progress)
    except WeightsUnavailableError as error:
        kind = "SHA-256" if len(architecture.digest) == 64 else "MD5"
        which = f" ({kind} {architecture.digest})" if architecture.digest else ""
        place = path.parent if architecture.url.endswith(f"/{architecture.file}") else path
        reason = str(error).removeprefix(f"{url}: ")
        raise WeightsUnavailableError(
            f"the ImageNet weights of {architecture.name} are not on this machine and can't be downloaded: {reason}; "
            f"put {architecture.url}{which} into {place}"
        ) from error


def imagenet_file(architecture: Architecture) -> Path:
    """Return where Keras keeps the network's ImageNet weights, there or not."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models" / architecture.file


def imagenet_url(architecture: Architecture) -> str:
    """Return where they are downloaded from: Keras' server, or the mirror that the environment names."""
    mirror = os.environ.get(URL_VARIABLE)
    return f"{mirror.rstrip('/')}/{architecture.url.rsplit('/', 1)[-1]}" if mirror else architecture.url


def check_cached(path: Path, architecture: Architecture) -> None:
    """Hold a file to what Keras publishes.

    Raises:
        WeightsError: it can't be read, or is another one.
    """
    expected = architecture.digest
    try:
        with open(path, "rb", opener=paths.regular) as stream:
            found = hashlib.file_digest(stream, "md5" if len(expected) == 32 else "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {paths.fault(error)}") from error
    if expected and found != expected:
        raise WeightsError(
            f"{path} is damaged: expected digest {expected}, got {found}; remove it and run again, "
            f"or put the file from {architecture.url} there"
        )


def _stat(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=32)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of the file, read once per process as long as size and time stay (they are the memo's key)."""
    del size, mtime_ns
    return keys.file_digest(path)
