"""Several labels a row in Keras: heads as models, training by Keras' engine, the exported graph."""

import numpy as np
import pytest
from head_rows import examples_of

keras = pytest.importorskip("keras")

from featcache.core.progress import Silent  # noqa: E402  # after importorskip
from featcache.ensemble.combination import Combination  # noqa: E402
from featcache.ensemble.ensemble import Ensemble  # noqa: E402
from featcache.inference.keras_model import join_model  # noqa: E402
from featcache.inference.served_ensemble import ServedConvNet, ServedEnsemble  # noqa: E402
from featcache.settings.schedules import Phase  # noqa: E402
from featcache.settings.specs import HeadsSpec  # noqa: E402
from featcache.training.convnet.model import build_convnet  # noqa: E402
from featcache.training.convnet.plan import ConvNetPlan  # noqa: E402
from featcache.training.heads.keras_engine import KerasEngine  # noqa: E402
from featcache.training.heads.keras_models import head_model  # noqa: E402
from featcache.training.heads.partition import by_folds  # noqa: E402
from featcache.training.heads.presets import resolve_heads  # noqa: E402
from featcache.training.heads.trainer import train_heads  # noqa: E402
from featcache.training.metrics import Interval, Scores  # noqa: E402

ROWS, LABELS, VALUES, SIDE = 60, 3, 6, 16


def test_keras_trains_the_same_heads_which_are_its_models():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(ROWS, VALUES)).astype(np.float16)
    labels = (values[:, :LABELS] + generator.normal(size=(ROWS, LABELS)) > 0).astype(np.int8)
    spec = HeadsSpec(folds=2, hidden=(4,), schedule=((1e-2, 3),), batch_size=16, class_weight="balanced")
    plan = resolve_heads(spec, "dense", VALUES, ROWS, LABELS, several=True)
    examples = examples_of([values], labels, by_folds(np.arange(ROWS) % 2, np.ones(ROWS, bool)))
    bag, theirs = (train_heads(examples, plan, (0,), Silent(), "heads", engine) for engine in (None, KerasEngine))
    assert np.allclose(bag.out_of_fold, theirs.out_of_fold, atol=1e-4)
    assert np.allclose(bag.history.loss, theirs.history.loss, atol=1e-4)
    model, predicted = head_model(bag, 1), bag.predict({"tap": values})[1]
    assert np.allclose(keras.ops.convert_to_numpy(model(values.astype(np.float32))), predicted, atol=1e-5)


@pytest.mark.parametrize(("floor", "temperature", "clip"), [(1e-3, 1.4, (0.6, 0.9, 1.0)), (0.0, 1.0, 0.55)])
def test_the_exported_graph_is_the_ensemble(floor, temperature, clip):
    plan = ConvNetPlan(SIDE, 3, LABELS, (Phase(1e-3, 1),), 8, "float32", several=True)
    networks = [build_convnet(plan, [90.0] * 3, [60.0] * 3, seed) for seed in range(2)]
    served = tuple(ServedConvNet(f"convnet/seed{seed}", [each]) for seed, each in enumerate(networks))
    names = tuple(each.member for each in served)
    whole = Combination("mean", (0.7, 0.3), temperature, 1.0, floor, (1.0,) * LABELS)
    score, span = Scores(1.0, 0.1), Interval((0.0, 1.0), (0.0, 1.0))
    of_members = dict.fromkeys(names, score)
    built = Ensemble(
        names, ("a", "b", "c"), whole, {0: whole}, score, span, of_members, names[0], {0: names[0]}, score, (0.5,) * 3
    )
    images = np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
    ensemble = ServedEnsemble(built, clip, (), served)
    model = join_model([], ensemble, "labels", SIDE)
    expected = ensemble.probabilities([], {SIDE: images})
    assert np.allclose(keras.ops.convert_to_numpy(model(images)), expected, atol=1e-5)
    assert expected.max() <= np.max(clip)
