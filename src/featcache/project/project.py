"""One project: its settings, where each artifact lies, and the key that each must carry.

Everything here is cheap, because Luigi asks at every scheduling: stats, small JSON and HDF5 attributes; no images, no
TensorFlow, no pandas. A key is None while something upstream isn't there, so nothing downstream passes for complete.
"""

import secrets
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from featcache.cache import MIRROR, copy_name
from featcache.core import keys
from featcache.core.joined_texts import column_digest
from featcache.core.paths import fault
from featcache.dataset import FileStats, Manifest, current_key, list_files, stored_manifest
from featcache.errors import SubmissionError
from featcache.project.artifact import Artifact, digest_of, key_of
from featcache.project.backbone_features import BackboneFeatures
from featcache.settings import GROUP, IGNORE, LOG_LOSS, STRETCH, Settings
from featcache.training import (
    CONVNET_VERSION,
    PATHS,
    PSEUDO,
    RECORD_FILE,
    first_round,
    head_type_settings,
    head_types,
    joined_inputs,
    member_settings,
    normalizes,
    training_version,
)

LOG_NAME = "luigi.log"

# Raised when the same settings and inputs would give other values than before.
PREDICT_VERSION = 2
ENSEMBLE_VERSION = 5
SUBMISSION_VERSION = 4
REPORT_VERSION = 5
DUPLICATES_VERSION = 2
COMPARE = "compare"  # the folder of a comparison of backbones


class Project:
    """Paths and keys of one data set's artifacts.

    One instance is one run, in the processes that it forks too: it lists the source once (what is added meanwhile is the
    next run's), and `run` is the random name that its artifacts carry, which is what ``--rerun`` asks for.
    """

    def __init__(self, settings: Settings, manifest: Mapping[str, Any] | None = None) -> None:
        """Derive all keys from the settings and from the source, or from the summary of a `manifest` in its place."""
        self.settings = settings
        self.folder = settings.folder
        self.run = secrets.token_hex(8)
        self._confirmed: str | None = None
        self._given = manifest

    # ---- manifest

    @cached_property
    def listing(self) -> FileStats | None:
        """The source's files as stats, taken once; None when the source can't be listed."""
        return list_files(self.settings.dataset)

    def manifest(self) -> Artifact:
        """The listed rows; its key is the stored one while the source is as it was listed, else unknown.

        Once a stored manifest is found true it stays so for this run; a later change is found when the image is decoded.
        """
        stored = stored_manifest(self.folder)
        if self._confirmed is None or stored is None or stored["key"] != self._confirmed:
            self._confirmed = current_key(self.settings.dataset, self.folder, self.listing)
        return Artifact(self.folder / "manifest.json", self._confirmed)

    def listed(self) -> Mapping[str, Any] | None:
        """The manifest's summary, `manifest.json`; None while it isn't there or isn't true."""
        if self._given is not None:
            return self._given
        return stored_manifest(self.folder) if self.manifest().key else None

    def assuming(self, manifest: Manifest) -> "Project":
        """Return this project as it will be once `manifest` is saved: what a run would then find stale is stale."""
        return Project(self.settings, manifest.summary())

    def as_stored(self) -> "Project":
        """Return this project with the manifest as it was last saved: who applies what was trained needs no image."""
        return Project(self.settings, stored_manifest(self.folder))

    @property
    def several(self) -> bool:
        """Whether a row has any number of the classes as its labels; False as long as nothing is listed."""
        return bool((self.listed() or {}).get("several"))

    def splits(self) -> Mapping[str, Mapping[str, Any]]:
        """Split -> what the manifest says of it (key, rows, rejected); empty while there is none."""
        listed = self.listed()
        return listed["splits"] if listed else {}

    # ---- features

    @cached_property
    def backbones(self) -> tuple[BackboneFeatures, ...]:
        """What is known of each backbone's features, in the order of the settings."""
        specs = self.settings.backbones
        labels = [spec.label for spec in specs] if len(specs) > 1 else [""]
        made = zip(specs, labels, strict=True)
        return tuple(BackboneFeatures(spec, label, self.folder, self.listed) for spec, label in made)

    def backbone(self, label: str) -> BackboneFeatures:
        """The backbone of that label, ``vgg16@224``; of the only one it is ""."""
        return next(backbone for backbone in self.backbones if backbone.label == label)

    def caches(self) -> list[tuple[BackboneFeatures, str, int]]:
        """(backbone, split, copy) of every feature cache that the settings ask for, backbone by backbone."""
        plain, mirrored = self.views[:1], self.views[1:]
        copies = {"train": range(self.settings.features.copies + 1)}
        wanted = [(split, copy) for split in self.splits() for copy in (*copies.get(split, plain), *mirrored)]
        return [(backbone, split, copy) for backbone in self.backbones for split, copy in wanted]

    @property
    def other_caches(self) -> tuple[Path, ...]:
        """Folders whose caches may hold rows of this data set, too: a comparison's, and those of what is compared for."""
        return self.folder / COMPARE / "features", self.folder.parent / "features"

    @property
    def views(self) -> tuple[int, ...]:
        """The copies over which a row's predictions are averaged: plain, and mirrored where the settings say so."""
        return (0, MIRROR) if self.settings.features.mirror else (0,)

    def tap_keys(self, copy: int) -> dict[str, str]:
        """Tap name, as inputs have it -> the settings half of its row keys; empty while unresolved."""
        found = ((backbone, backbone.tap_keys(copy)) for backbone in self.backbones)
        return {backbone.input_name(name): key for backbone, own in found for name, key in own.items()}

    def all_features(self) -> Artifact:
        """All caches and `rejected.csv` together."""
        caches = {
            f"{backbone.label} {split} {copy_name(copy)}".lstrip(): backbone.cache(split, copy)
            for backbone, split, copy in self.caches()
        }
        spec = self.settings.features
        inputs = {
            "settings": {"Features": {"copies": spec.copies} | ({"mirror": True} if spec.mirror else {})},
            "upstream": {"ExtractSplit": {name: c.key if c.is_complete() else None for name, c in caches.items()}},
        }
        return Artifact(self.folder / "features" / "features.json", key_of(inputs), inputs)

    def duplicates(self) -> Artifact:
        """Groups of images that are nearly the same, and those unlike anything seen, by the first backbone's features."""
        caches = {split: self.backbones[0].cache(split, 0).key for split in self.splits()}
        inputs = {"version": DUPLICATES_VERSION, "upstream": {"ExtractFeatures": caches}}
        return Artifact(self.folder / "features" / "duplicates.json", key_of(inputs), inputs)

    def _fold_groups(self) -> dict[str, object]:
        """What near duplicates add to the key of what is dealt out to folds: nothing, or the groups of training rows."""
        if self.settings.dataset.near_duplicates != GROUP:
            return {}
        found = self.duplicates()
        return {"FindDuplicates": (found.record() or {}).get("groups_key") if found.is_complete() else None}

    # ---- heads

    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Name -> taps of every input of heads: one tap, or several side by side, of one backbone or of several."""
        taps = {backbone.label: backbone.spec.taps for backbone in self.backbones}
        return joined_inputs(taps, joined=normalizes(self.settings.heads))

    def bags(self) -> list[tuple[str, str]]:
        """(input, head type) of every bag that the settings ask for, input by input.

        Where there is an input on all of several backbones, those on one backbone have linear types only, which take
        seconds: more add nothing (docs/decisions/0018).
        """
        inputs, types = self.inputs(), head_types(self.settings.heads, several=self.several)
        whole = "+".join(backbone.label for backbone in self.backbones)
        alone = [kind for kind in types if kind in PATHS] if whole in inputs else types
        return [(name, kind) for name in inputs for kind in (types if name == whole else alone)]

    def bag(self, name: str, kind: str) -> Artifact:
        """Heads of one input and head type: they depend on training rows, its taps' features of all copies, and their settings."""
        copies = (*range(self.settings.features.copies + 1), *self.views[1:])
        by_copy = [self.tap_keys(copy) for copy in copies]
        taps = [keys_of.get(tap) for keys_of in by_copy for tap in self.inputs()[name]]
        rows = self.splits().get("train", {}).get("key")
        settings: dict[str, Any] = {"Heads": head_type_settings(self.settings.heads, kind)}
        features: dict[str, Any] = {"taps": taps, "rows": rows}
        upstream: dict[str, Any] = {"ExtractFeatures": features, **self._fold_groups()}
        if kind.endswith(PSEUDO):
            settings["Ensemble"] = {**asdict(self.settings.ensemble), "version": self._ensemble_version}
            features["test"] = self._view_keys("test")
            upstream["TrainHeads"] = [self.bag(*bag).key for bag in self.labelling_bags(kind)]
        inputs = {"version": training_version(kind), "settings": settings, "upstream": upstream}
        return self._keyed("heads", keys.short_name(f"{name}-{kind}", keys.SHORT + 1), "bag.json", inputs)

    def labelling_bags(self, kind: str) -> list[tuple[str, str]]:
        """(input, head type) of the bags whose ensemble labels test rows for bags of type `kind`; none for most."""
        types = first_round(self.settings.heads, several=self.several) if kind.endswith(PSEUDO) else ()
        return [(name, labelling) for name, labelling in self.bags() if labelling in types]

    # ---- convnets, and all members

    def convnet(self, seed: int) -> Artifact:
        """One member's networks, one a fold: they depend on training images, classes and settings, and on no features."""
        listed, rows = self.listed(), self.splits().get("train", {}).get("key")
        classes = column_digest(listed["class_names"]) if listed else None
        settings = member_settings(self.settings.convnet, seed, self.settings.heads)
        if (fit := self.settings.features.image_fit) != STRETCH:
            settings["Features"] = {"image_fit": fit}
        upstream = {"IndexImages": {"rows": rows, "classes": classes}, **self._fold_groups()}
        inputs = {"version": CONVNET_VERSION, "settings": settings, "upstream": upstream}
        return self._keyed("convnets", f"seed{seed}", RECORD_FILE, inputs)

    def convnets(self) -> list[Artifact]:
        """Every member's networks, in the order of the seeds."""
        return [self.convnet(seed) for seed in range(self.settings.convnet.members)]

    def member_sources(self) -> dict[str, list[Artifact]]:
        """Stage -> its artifacts that members come from, each with out-of-fold predictions; only stages that have any."""
        stages = {"TrainHeads": [self.bag(*bag) for bag in self.bags()], "TrainConvNets": self.convnets()}
        return {stage: artifacts for stage, artifacts in stages.items() if artifacts}

    def _member_keys(self) -> dict[str, list[str | None]]:
        return {stage: [artifact.key for artifact in artifacts] for stage, artifacts in self.member_sources().items()}

    # ---- predictions, ensemble, submission, report

    def scored_splits(self) -> list[str]:
        """The splits beside `train` that have rows."""
        return [split for split in self.splits() if split != "train"]

    def predictions(self, split: str) -> Artifact:
        """All members' predictions for a split that nothing is trained on."""
        upstream = {"ExtractFeatures": self._view_keys(split), **self._member_keys()}
        inputs = {"version": PREDICT_VERSION, "split": split, "upstream": upstream}
        return self._keyed("predictions", split, "predictions.json", inputs)

    def _view_keys(self, split: str) -> str | list[str | None] | None:
        """The keys of a split's features that predictions are averaged over, one alone as it is."""
        found = [backbone.cache(split, copy).key for backbone in self.backbones for copy in self.views]
        return found if len(found) > 1 else found[0]

    def _prediction_keys(self) -> dict[str, str | None]:
        return {split: self.predictions(split).key for split in self.scored_splits()}

    def ensemble(self) -> Artifact:
        """Members, weights, temperature and clip, chosen on the members' out-of-fold predictions."""
        settings = {"Ensemble": asdict(self.settings.ensemble)}
        if self.settings.ensemble.metric == LOG_LOSS:  # as before there were others
            del settings["Ensemble"]["metric"]
        inputs = {"version": self._ensemble_version, "settings": settings, "upstream": self._member_keys()}
        return self._keyed("ensembles", "", "ensemble.json", inputs)

    @property
    def _ensemble_version(self) -> int:
        return ENSEMBLE_VERSION + (len(self.backbones) > 1)  # whose weights were found otherwise before 0.2.0

    def submission(self) -> Artifact:
        """The submission's record; the submission itself is its content, and is shown in the project's folder."""
        spec, sample = self.settings.submission, self.settings.dataset.sample_submission
        listed = self.listed()
        names = listed["class_names"] if listed else None
        inputs = {
            "version": SUBMISSION_VERSION,
            "settings": {"Submission": asdict(spec)},
            "files": {"sample submission": _sample_digest(sample) if sample else None},
            "upstream": {
                "BuildEnsemble": self.ensemble().key,
                "PredictRows": self._prediction_keys(),
                "IndexImages": column_digest(names) if names is not None else None,
            },
        }
        name = "submission.csv.gz" if spec.gzip else "submission.csv"
        return self._keyed("submissions", "", "submission.json", inputs, self.folder / name)

    def report(self) -> Artifact:
        """The report's record; the page itself is its content. It needs no submission, and no rows beside `train`."""
        upstream: dict[str, object] = {
            "ExtractFeatures": {
                f"{backbone.label} {split}".lstrip(): backbone.cache(split, 0).key
                for backbone in self.backbones
                for split in self.splits()
            },
            "BuildEnsemble": self.ensemble().key,
        }
        if predictions := self._prediction_keys():
            upstream["PredictRows"] = predictions
        if self.settings.dataset.near_duplicates != IGNORE:
            upstream["FindDuplicates"] = self.duplicates().key
        inputs: dict[str, Any] = {"version": REPORT_VERSION, "upstream": upstream}
        corrections = self.settings.dataset.corrections
        if corrections is not None:  # of rows that it names, no label is suspected
            inputs["files"] = {"corrections": digest_of(corrections.expanduser())}
        return self._keyed("reports", "", "report.json", inputs, self.folder / "report" / "index.html")

    def _keyed(
        self, room: str, name: str, record: str, inputs: Mapping[str, Any], shown: Path | None = None
    ) -> Artifact:
        """An artifact in a folder of its own, which is named by its key."""
        key = key_of(inputs)
        folder = "-".join(filter(None, (name, keys.short(key or "unknown"))))
        return Artifact(self.folder / room / folder / record, key, inputs, shown)


def _sample_digest(sample: Path) -> str:
    try:
        return keys.file_digest(sample)
    except OSError as error:
        cause = f"[Dataset] sample_submission: {sample} can't be read: {fault(error)}"
        raise SubmissionError(f"{cause}: correct the path or its permissions") from error
