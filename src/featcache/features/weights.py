"""Which weights a backbone gets: found, downloaded or made up, and the digest that represents them in keys.

Weights are resolved once, inside extraction (`resolve_weights`), and recorded; scheduling then knows their digest from
that record (`known_digest`) without network, Keras or a second look at anything but the user's own file.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from featcache.core import keys
from featcache.core.disk import system_error
from featcache.core.keras_import import home_folder, keras_folder
from featcache.core.names import did_you_mean
from featcache.core.paths import expanded, fault, is_file, is_folder, regular, what_is
from featcache.core.progress import Progress
from featcache.errors import WeightsError, WeightsUnavailableError
from featcache.features.download import download
from featcache.settings import (
    HUB,
    Architecture,
    FeaturesSpec,
    backbone_settings,
    find_architecture,
    has_own_weights,
    is_model_file,
    is_preset,
)

URL_VARIABLE = "FEATCACHE_WEIGHTS_URL"
SEED = 0
"""Of random weights."""
RANDOM_VERSION = 1
_NAMED = ("auto", "imagenet", "random")
_HDF5 = b"\x89HDF\r\n\x1a\n"
# What people take for weights ("file") or a network ("model") or either (""): how it begins, and what it is.
_OTHERS = (
    ("file", b"PK", "an archive, as .keras files are: a whole network goes into [Features] backbone"),
    ("model", _HDF5, "HDF5: load it in Keras and save it as .keras"),
    ("", b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run git lfs pull"),
    ("", b"<", "a page of HTML or XML, perhaps a server's answer: download it again"),
)


@dataclass(frozen=True)
class ResolvedWeights:
    """Weights that are on this machine.

    Attributes:
        kind: ``imagenet``, ``file`` (a notop HDF5 file), ``model`` (the backbone is a ``.keras`` file),
            ``preset`` (of KerasHub) or ``random``.
        digest: SHA-256 of the file, or the key of what makes random weights; 64 hexadecimal digits.
        path: the file, or a preset's folder; None for ``random``.
        note: for people, e.g. why ``auto`` took random weights, in three lines; "" where there is none.
    """

    kind: str
    digest: str
    path: Path | None
    note: str = ""

    def record(self, spec: FeaturesSpec) -> dict[str, object]:
        """Return what `known_digest` needs in later runs, as JSON values; without paths of this machine's cache.

        `spec` has the settings that these weights were resolved for.
        """
        setting, backbone = _settings(spec)
        return {
            "setting": setting,
            "backbone": backbone,
            "kind": self.kind,
            "digest": self.digest,
            "note": self.note,
            "stat": _stat(self.path) if self.path is not None else None,
        }


def resolve_weights(spec: FeaturesSpec, progress: Progress) -> ResolvedWeights:
    """Find or download the weights that `spec` asks for.

    ``auto`` takes the ImageNet weights if they are cached or can be downloaded, else random ones, with a notice.

    Raises:
        BackboneError: the backbone is unknown or its settings contradict each other.
        WeightsUnavailableError: ``imagenet``, and the file is neither cached nor can be downloaded and kept.
        WeightsError: a file is missing, unreadable, or (in Keras' cache) not the one that Keras publishes.
        SettingsError: a path begins with a ``~user`` that has no home folder.
    """
    backbone_settings(spec)
    if is_preset(spec.backbone):
        return _preset(spec.backbone.removeprefix(HUB))
    if named := named_file(spec):
        return _from_file(spec, *named)
    architecture, note = find_architecture(spec.backbone), "random weights: enough to try things, not to compete"
    if spec.weights != "random":
        try:
            return _imagenet(architecture, progress)
        except WeightsUnavailableError as error:
            if spec.weights == "imagenet":
                raise
            missing, _, file = str(error).partition("; put ")
            note = (
                f"RANDOM WEIGHTS: {missing}\n"
                "  enough to try things, not for photos: set [Features] weights = imagenet\n"
                f"  and put {file}"
            )
            progress.notice(note)
    return ResolvedWeights("random", _random_digest(architecture), None, note)


def named_file(spec: FeaturesSpec) -> tuple[Path, str] | None:
    """Return the user's own file and the setting that names it, or None; a `SettingsError` for a ``~user`` without home."""
    if is_preset(spec.backbone):
        return None
    key = "backbone" if is_model_file(spec.backbone) else "weights"
    text = getattr(spec, key)
    return None if text in _NAMED else (expanded(Path(text), f"[Features] {key}"), f"[Features] {key}")


def known_digest(spec: FeaturesSpec, recorded: Mapping[str, Any] | None) -> str | None:
    """Return the digest of the weights as far as it is known without network; None means: resolve them.

    Random weights are known at once. A user's file counts by its content (the record's size and time only save reading
    it); where it is gone, the record counts. ``imagenet`` and ``auto`` are as recorded, as long as the settings are the
    recorded ones. `recorded` is `ResolvedWeights.record` of an earlier run.

    Raises:
        BackboneError, SettingsError: as `backbone_settings` and `named_file`.
    """
    backbone_settings(spec)
    if spec.weights == "random":
        return _random_digest(find_architecture(spec.backbone))
    if recorded is None or not is_record_of(spec, recorded):
        recorded = {}
    digest: str | None = recorded.get("digest")
    if is_preset(spec.backbone) and (folder := _preset_folder(spec.backbone.removeprefix(HUB))) is not None:
        return digest if digest and recorded.get("stat") == _stat(folder) else _folder_digest(folder)
    if (named := named_file(spec)) is None:
        return digest
    try:
        return digest if digest and recorded.get("stat") == _stat(named[0]) else keys.file_digest_once(named[0])
    except OSError:
        return digest


def is_record_of(spec: FeaturesSpec, recorded: Mapping[str, Any]) -> bool:
    """Whether a record of resolved weights is of the backbone and setting of `spec`."""
    return (recorded.get("setting"), recorded.get("backbone")) == _settings(spec)


def _settings(spec: FeaturesSpec) -> tuple[str, str]:
    """What a record is valid for; a network's name counts in any case, a path as it is written."""
    return spec.weights, spec.backbone if has_own_weights(spec.backbone) else spec.backbone.lower()


def _preset(name: str) -> ResolvedWeights:
    """A preset of KerasHub in a folder: one's own, or where KerasHub downloads it to."""
    if find_spec("keras_hub") is None:
        raise WeightsError(f"[Features] backbone: {HUB}{name} needs KerasHub: pip install 'featcache[hub]'")
    folder = _preset_folder(name)
    if folder is None:
        from featcache.features.hub import download_preset

        folder = download_preset(name)
    return ResolvedWeights("preset", _folder_digest(folder), folder)


def _preset_folder(name: str) -> Path | None:
    folder = expanded(Path(name), "[Features] backbone")
    return folder if is_folder(folder) else None


def _folder_digest(folder: Path) -> str:
    return keys.digest([[file.name, keys.file_digest_once(file)] for file in _files_of(folder)])


def _files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in (".json", ".h5"))


def _random_digest(architecture: Architecture) -> str:
    version = RANDOM_VERSION + architecture.steep  # whose first weights overflowed
    made_from = {"weights": "he-normal", "backbone": architecture.key, "seed": SEED, "version": version}
    return keys.digest(made_from)


def _from_file(spec: FeaturesSpec, path: Path, setting: str) -> ResolvedWeights:
    kind = "model" if is_model_file(spec.backbone) else "file"
    try:
        digest = keys.file_digest_once(path)
        with open(path, "rb", opener=regular) as stream:
            begin = stream.read(64)
    except FileNotFoundError as error:
        hint = did_you_mean(str(path), _NAMED)
        others = f": give {', '.join(_NAMED)} or the path of a file" if kind == "file" else ""
        raise WeightsError(f"{setting}: there is no {path}{hint}{others}") from error
    except OSError as error:
        if is_file(path):
            raise WeightsError(f"{setting}: {path} can't be read: {fault(error)}") from error
        raise WeightsError(f"{setting}: {path} is {what_is(path)}, not a file") from error
    if not begin:
        raise WeightsError(f"{setting}: {path} is empty")
    for taken_for, start, other in _OTHERS:
        if taken_for in ("", kind) and begin.lstrip().startswith(start):
            raise WeightsError(f"{setting}: {path} is {other}")
    return ResolvedWeights(kind, digest, path)


def _imagenet(architecture: Architecture, progress: Progress) -> ResolvedWeights:
    path = imagenet_file(architecture)
    if is_file(path):
        check_cached(path, architecture)
        return ResolvedWeights("imagenet", keys.file_digest_once(path), path)
    url, begin = imagenet_url(architecture), b"" if architecture.digest else _HDF5
    try:
        download(url, path, digest=architecture.digest, begin=begin, progress=progress)
    except (WeightsUnavailableError, OSError) as error:
        reason = str(error).removeprefix(f"{url}: ")
        if isinstance(error, OSError):
            cause = fault(system_error(error) or error).lower()
            reason = f"{path.parent} can't be written ({cause}): set KERAS_HOME to a folder that can"
        kind = "SHA-256" if len(architecture.digest) == 64 else "MD5"
        which = f" ({kind} {architecture.digest})" if architecture.digest else ""
        place = path.parent if architecture.url.endswith(f"/{architecture.file}") else path
        raise WeightsUnavailableError(
            f"the ImageNet weights of {architecture.name} are not on this machine and can't be downloaded: {reason}; "
            f"put {architecture.url}{which} into {place}"
        ) from error
    return ResolvedWeights("imagenet", keys.file_digest_once(path), path)


def imagenet_file(architecture: Architecture) -> Path:
    """Return where the network's ImageNet weights are, or where Keras would put them."""
    place, home = Path("models") / architecture.file, home_folder()
    # a home that can't be written (an image's, a read-only mount) may hold them all the same
    if home is not None and not os.environ.get("KERAS_HOME") and is_file(home / ".keras" / place):
        return home / ".keras" / place
    return keras_folder() / place


def imagenet_url(architecture: Architecture) -> str:
    """Return where they are downloaded from: Keras' server, or the mirror that the environment names."""
    mirror = os.environ.get(URL_VARIABLE)
    return f"{mirror.rstrip('/')}/{architecture.url.rsplit('/', 1)[-1]}" if mirror else architecture.url


def check_cached(path: Path, architecture: Architecture) -> None:
    """Hold a file to what Keras publishes.

    Raises:
        WeightsUnavailableError: it can't be read.
        WeightsError: it is another one.
    """
    expected = architecture.digest
    try:
        with open(path, "rb", opener=regular) as stream:
            begin = stream.read(len(_HDF5))
            stream.seek(0)
            found = hashlib.file_digest(stream, "md5" if len(expected) == 32 else "sha256").hexdigest()
    except OSError as error:
        raise WeightsUnavailableError(f"{path} can't be read: {fault(error)}; permit it or remove it") from error
    if found != expected if expected else begin != _HDF5:
        damage = f"digest {found}, not {expected}" if expected else f"it begins with {begin!r}, not as HDF5"
        advice = f"remove it and run again, or put the file from {architecture.url} there"
        raise WeightsError(f"{path} is damaged: {damage}; {advice}")


def _stat(path: Path) -> list[int]:
    """Size and time of change, by which a file counts as the recorded one."""
    stats = [file.stat() for file in (_files_of(path) if is_folder(path) else [path])]
    return [sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)]
