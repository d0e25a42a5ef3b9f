"""How images become squares, and whether their mirror images count: keys, caches, predictions and the exported model."""

import pytest

from featcache.project import Project
from featcache.settings import parse_settings

LISTED = {"class_names": ["a", "b"], "splits": {"train": {"key": "1" * 64}, "test": {"key": "2" * 64}}}
FEATURES = {"weights": "random", "precision": "float32", "taps": "block1_pool:avg", "image_size": "32"}


def project_of(**features):
    return Project(parse_settings({"Features": FEATURES | features, "ConvNet": {"members": "1"}}), LISTED)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_convnets_follow_the_fit_and_keep_their_key_without_one(fit):
    plain, fitted = project_of().convnet(0), project_of(image_fit=fit).convnet(0)
    assert plain.inputs["settings"].keys() == {"ConvNet", "Heads"}
    assert fitted.inputs["settings"] == plain.inputs["settings"] | {"Features": {"image_fit": fit}}
