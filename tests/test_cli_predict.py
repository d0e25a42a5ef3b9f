"""`featcache predict` against what the pipeline says of the same images."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import copied_project, flags, stored_ensemble, stored_predictions

from featcache.cli import main


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return copied_project(finished, tmp_path / "project")


def predict(project, capsys, *arguments, status=0):
    capsys.readouterr()
    assert main(["predict", *map(str, arguments), *flags(project)]) == status
    return capsys.readouterr()


def of_the_pipeline(project):
    """Row id -> (C,) probabilities as the submission has them."""
    stored = stored_predictions(project)
    said = stored_ensemble(project).apply(stored)
    return dict(zip(stored.ids, said, strict=True))


def test_it_says_of_the_test_images_what_the_pipeline_said(project, capsys):
    folder = project.folder / "photos/test"
    records = json.loads(predict(project, capsys, "--json", folder).out)
    expected = of_the_pipeline(project)
    assert [record["file"] for record in records] == [str(folder / name) for name in expected]
    for record, said in zip(records, expected.values(), strict=True):
        assert list(record["probabilities"]) == ["disc", "square", "triangle"]
        assert np.allclose(list(record["probabilities"].values()), said, atol=1e-6)
        assert (
            record["probability"] == max(record["probabilities"].values()) == record["probabilities"][record["class"]]
        )
    submitted = dict(list(csv.reader((project.artifacts / "submission.csv").read_text().splitlines()))[1:])
    assert [record["class"] for record in records] == list(submitted.values())


def test_it_needs_no_image_of_the_project(project, capsys):
    folder = project.folder / "elsewhere"
    (project.folder / "photos/test").rename(folder)
    shutil.rmtree(project.folder / "photos")
    records = json.loads(predict(project, capsys, "--json", folder / "disc-0.png").out)
    assert np.allclose(list(records[0]["probabilities"].values()), of_the_pipeline(project)["disc-0.png"], atol=1e-6)


def test_the_table_has_file_class_probability_and_next_best(project, capsys):
    captured = predict(project, capsys, project.folder / "photos/test")
    header, *lines = captured.out.splitlines()
    assert header.split() == ["file", "class", "probability", "next", "best"]
    expected = of_the_pipeline(project)
    for line, (name, said) in zip(lines, expected.items(), strict=True):
        file, told, probability, second, second_probability = line.split()
        ranked = np.argsort(-said)
        classes = ("disc", "square", "triangle")
        assert (file.rsplit("/", 1)[1], told, second) == (name, classes[ranked[0]], classes[ranked[1]])
        assert (float(probability), float(second_probability)) == pytest.approx(said[ranked[:2]].tolist(), abs=6e-5)
    assert "predicting: 9 images ..." in captured.err


def test_what_cannot_be_decoded_is_set_aside_and_the_others_told(project, capsys):
    folder = project.folder / "photos/test"
    (folder / "broken.png").write_bytes(b"no image")
    captured = predict(project, capsys, "--json", "--csv", "said.csv", folder, status=1)
    records = {record["file"].rsplit("/", 1)[1]: record for record in json.loads(captured.out)}
    assert len(records) == 10
    assert records["broken.png"]["probabilities"] is None
    assert "not an image" in records["broken.png"]["error"]
    assert f"{folder / 'broken.png'}: rejected: not an image" in captured.err
    header, *table = csv.reader(Path("said.csv").read_text().splitlines())
    assert header == ["file", "class", "disc", "square", "triangle", "farther_than"]
    assert len(table) == 9
    for file, told, *values, _ in table:
        record = records[file.rsplit("/", 1)[1]]
        assert (told, [float(value) for value in values]) == (record["class"], list(record["probabilities"].values()))


def test_what_is_unlike_anything_seen_is_named(project, capsys):
    folder = project.folder / "photos/test"
    records = json.loads(predict(project, capsys, "--json", folder).out)
    assert {(each["unlike"], each["farther_than"]) for each in records} == {(None, None)}, "nobody has compared"
    stripes = np.zeros((36, 40, 3), np.uint8)
    stripes[::4] = 255
    Image.fromarray(stripes).save(folder / "stripes.png")
    project.run("FindDuplicates")
    found = json.loads((project.artifacts / "features/duplicates.json").read_text())["unlike"]
    (row,) = [row for row, name in enumerate(sorted(path.name for path in folder.iterdir())) if name == "stripes.png"]
    assert ["test", row, 1.0] in found["rows"]
    assert found["of"] == {"test": 10}
    # the stored ensemble is what predicts; that it is complete shows that comparing changed no key of it
    captured = predict(project, capsys, "--csv", "said.csv", folder)
    unlike = [line.split()[0].rsplit("/", 1)[1] for line in captured.out.splitlines() if "unlike anything seen" in line]
    names = sorted(path.name for path in folder.iterdir())
    assert unlike == [name for number, name in enumerate(names) if number in {row for _, row, _ in found["rows"]}]
    shares = {
        Path(line[0]).name: float(line[-1]) for line in [*csv.reader(Path("said.csv").read_text().splitlines())][1:]
    }
    assert shares["stripes.png"] == 1
    assert min(shares.values()) < 0.9


def test_batches_do_not_change_what_is_said(project, capsys, monkeypatch):
    from featcache.features.backbone import load_backbone
    from featcache.inference import predictor as library
    from featcache.project.resolved import resolved_weights

    def small(backbone, progress):
        return load_backbone(backbone.spec, resolved_weights(backbone, progress), "float32", batch_size=4)

    folder = project.folder / "photos/test"
    whole = json.loads(predict(project, capsys, "--json", folder).out)
    monkeypatch.setattr(library, "resolved_backbone", small)
    parts = json.loads(predict(project, capsys, "--json", folder).out)
    for one, other in zip(whole, parts, strict=True):
        assert one["file"] == other["file"]
        assert list(one["probabilities"].values()) == pytest.approx(list(other["probabilities"].values()), abs=1e-6)


def test_mistakes_are_one_line(project, capsys):
    folder = project.folder / "photos/test"
    assert "'/nowhere' is not there" in predict(project, capsys, "/nowhere", status=1).err
    (project.folder / "empty").mkdir()
    assert "has no images" in predict(project, capsys, project.folder / "empty", status=1).err
    project.set("Heads", dropout="0.7")
    captured = predict(project, capsys, folder, status=1)
    assert captured.out == ""
    assert "has no ensemble of these settings" in captured.err
    assert "luigi --module pipeline Submit" in captured.err


def test_another_weights_file_is_refused(project, capsys, tmp_path):
    import keras

    network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    network.save_weights(tmp_path / "notop.weights.h5")
    project.set("Features", weights=str(tmp_path / "notop.weights.h5"))
    project.run()
    assert project.succeeded
    folder = project.folder / "photos/test"
    predict(project, capsys, folder)
    with open(tmp_path / "notop.weights.h5", "ab") as stream:
        stream.write(b"another")
    captured = predict(project, capsys, folder, status=1)
    assert "[Features] weights: the file's digest is" in captured.err
    assert captured.out == ""
