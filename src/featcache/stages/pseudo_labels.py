"""Soft labels of test rows, by the first round's heads, for a second round that is trained on them too (R4)."""

import numpy as np

from featcache.core.scratch_arrays import allocate
from featcache.dataset import Manifest
from featcache.ensemble import Ensemble, select_ensemble
from featcache.errors import TrainingError
from featcache.project import Project, split_features
from featcache.training import (
    PSEUDO,
    Bag,
    Features,
    Float32s,
    HeadInput,
    Partition,
    Predictions,
    PseudoLabels,
    by_case,
    joined_members,
    load_bag,
    row_parts,
    stored_rows,
)

_LEAST_ROWS = 256  # each part takes the weights of all bags once more


def pseudo_labels(project: Project, seen_as: HeadInput, parts: Partition) -> PseudoLabels:
    """Label the test rows, for each fold by heads and weights that haven't seen it.

    Labels of the whole ensemble would carry each fold's own labels to the head that is scored on it. The second round's
    heads see the rows by `seen_as`; `parts` are the folds.

    Raises:
        CacheFormatError: a bag is absent or damaged, or the test images' features are.
        TrainingError: there are no usable test rows.
    """
    found = [split_features(project, "test", view) for view in project.views]
    class_names, usable = found[0].reader.class_names, found[0].usable
    if not usable.any():
        raise TrainingError("no usable test images to label for [Heads] pseudo_weight: set pseudo_weight = 0")
    labelling = project.labelling_bags(PSEUDO)
    records = [project.bag(*bag).path for bag in labelling]
    rows = Manifest.load(project.folder).splits["train"]
    known = joined_members([Predictions.load(record, rows) for record in records])
    built = select_ensemble(by_case(known, rows.cases, project.folder), project.settings.ensemble.method)
    # where every row is usable, the file itself is read batch by batch
    views = [{tap: each if usable.all() else each[usable] for tap, each in view.features.items()} for view in found]
    bags, count = [load_bag(record.parent) for record in records], int(usable.sum())
    labels: Float32s = allocate((len(parts.numbers), count, len(class_names)), np.float32, project.folder)
    heads = sum(len(bag.heads) for bag in bags)
    for some in row_parts(count, heads * len(class_names), _LEAST_ROWS):
        parts_of = [{tap: each[some] for tap, each in view.items()} for view in views]
        tables = [np.mean([by_fold(bag, view, parts) for view in parts_of], axis=0) for bag in bags]
        labels[:, some] = soft_labels(np.concatenate(tables, axis=1), built, parts)
    copies = [stored_rows(seen_as, view, project.folder) for view in views]
    return PseudoLabels(copies, labels, project.settings.heads.pseudo_weight)


def by_fold(bag: Bag, features: Features, parts: Partition) -> Float32s:
    """Return (P, seeds, m, C): for each fold, what each seed's head that hasn't seen it says of m rows."""
    predicted = bag.predict(features)
    place = {(head.seed, head.fold): number for number, head in enumerate(bag.heads)}
    chosen: Float32s = predicted[np.array([[place[seed, fold] for seed in bag.seeds] for fold in parts.numbers])]
    return chosen


def soft_labels(tables: Float32s, built: Ensemble, parts: Partition) -> Float32s:
    """Return (P, m, C) of (P, members, m, C): each fold's by the combination that was fitted without it, not clipped."""
    return np.stack(
        [built.folds[fold].apply(tables[place], clip=1.0) for place, fold in enumerate(parts.numbers)]
    ).astype(np.float32)
