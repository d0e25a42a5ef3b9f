"""docs/kaggle.md's table: layouts of well-known competitions, made small, and the settings that `featcache init` gives each."""

import re
from pathlib import Path

import numpy as np
import pytest
from images import encoded, picture, table

from featcache.inspection.first_settings import init_record

ROOT = Path(__file__).parent.parent
TABLE = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", (ROOT / "docs/kaggle.md").read_text(), re.M))
N = 12
IMAGE = encoded(picture(120, 120))


def write(folder, name, header, *lines):
    (folder / name).write_text("\n".join([header, *lines, ""]))


def put(folder, *forms, n=range(N)):
    for form in forms:
        for number in n:
            path = folder / form.format(number, "abc"[number % 3])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(IMAGE)


def labelled(folder, name, header, form, rows=range(N)):
    write(folder, name, header, *(form.format(n, "abc"[n % 3], n % 2, f"p{n // 2}") for n in rows))


def sampled(folder, form, header="id,label", value="0.5", name="sample_submission.csv", rows=(0, 1)):
    values = ",".join([value] * header.count(","))
    write(folder, name, header, *(f"{form.format(n)},{values}" for n in rows))


def simple(train, test, labels, header, form, sample, columns, value):  # a table of labels beside two folders
    def make(folder):
        put(folder, train), put(folder, test, n=(0, 1))
        labelled(folder, labels, header, form)
        sampled(folder, sample, columns, value)

    return make


def digit_recognizer(folder):
    images = np.zeros((N, 4, 4), np.uint8)
    (folder / "train.csv").write_text(table(images, [n % 3 for n in range(N)]))
    (folder / "test.csv").write_text(table(images))
    sampled(folder, "{}", "ImageId,Label", "0", rows=range(1, N + 1))


def melanoma(folder):
    put(folder, "jpeg/train/I{}.jpg", "train/I{}.dcm"), put(folder, "jpeg/test/T{}.jpg", "test/T{}.dcm", n=(0, 1))
    labelled(folder, "train.csv", "image_name,patient_id,sex,target", "I{0},{3},m,{2}")
    labelled(folder, "test.csv", "image_name,patient_id,sex", "T{0},{3},m", (0, 1))
    sampled(folder, "T{}", "image_name,target", "0")


def leaf(folder):
    put(folder, "images/{}.jpg", n=range(N + 2))
    labelled(folder, "train.csv", "id,species,margin1,margin2", "{0},{1},0.0{0},0.1{0}")
    labelled(folder, "test.csv", "id,margin1,margin2", "{0},0.0{0},0.1{0}", (N, N + 1))
    sampled(folder, "{}", "id,a,b,c", rows=(N, N + 1))


def plant_2020(folder):
    put(folder, "images/Train_{}.jpg"), put(folder, "images/Test_{}.jpg", n=(0, 1))
    write(folder, "train.csv", "image_id,healthy,rust", *(f"Train_{n},{n % 2},{1 - n % 2}" for n in range(N)))
    write(folder, "test.csv", "image_id", "Test_0", "Test_1")
    sampled(folder, "Test_{}", "image_id,healthy,rust")


def paddy(folder):
    put(folder, "train_images/{1}/{0}.jpg"), put(folder, "test_images/{}.jpg", n=(90, 91))
    labelled(folder, "train.csv", "image_id,label,variety,age", "{0}.jpg,{1},ADT45,4{2}")
    sampled(folder, "{}.jpg", "image_id,label", "", rows=(90, 91))


def seedlings(folder):
    put(folder, "train/{1}/{0}.png"), put(folder, "test/{}.png", n=(90, 91))
    sampled(folder, "{}.png", "file,species", "a", rows=(90, 91))


def cats(folder):
    put(folder, "train/cat.{}.jpg", "train/dog.{}.jpg"), put(folder, "test/{}.jpg", n=(1, 2))
    sampled(folder, "{}", rows=(1, 2))


def drivers(folder):
    put(folder, "imgs/train/c{0}/img_{0}.jpg", n=range(2))
    put(folder, "imgs/train/c0/img_1{}.jpg", "imgs/test/img_2{}.jpg")
    write(folder, "driver_imgs_list.csv", "subject,classname,img",
          *(f"p{n},c{n},img_{n}.jpg" for n in range(2)), *(f"p{n % 6},c0,img_1{n}.jpg" for n in range(N)))  # fmt: skip
    sampled(folder, "img_2{}.jpg", "img,c0,c1", rows=range(N))


def ham(folder):
    (
        put(folder, "HAM10000_images_part_1/I{}.jpg", n=range(6)),
        put(folder, "HAM10000_images_part_2/I{}.jpg", n=range(6, N)),
    )
    labelled(folder, "HAM10000_metadata.csv", "lesion_id,image_id,dx,dx_type,age,sex", "{3},I{0},{1},histo,4{2},m")


def pneumonia(folder):
    for split in ("train", "val", "test"):
        put(folder / "chest_xray", f"{split}/{{1}}/{{0}}.jpeg")


def flowers(folder):
    put(folder / "flowers", "{1}/{0}.jpg")


def several(value, header, *values):
    def make(folder):
        put(folder, "train/{}.jpg"), put(folder, "test/t{}.jpg", n=(0, 1))
        sampled(folder, "t{}", header, value)
        write(folder, "train.csv", header, *(f"{n},{values[n % len(values)]}" for n in range(N)))

    return make


COMPETITIONS = {
    "digit-recognizer": digit_recognizer,
    "aerial-cactus-identification": simple(
        "train/{}.jpg", "test/t{}.jpg", "train.csv", "id,has_cactus", "{0}.jpg,{2}", "t{}.jpg", "id,has_cactus", "0.5"
    ),
    "cassava-leaf-disease-classification": simple(
        "train_images/{}.jpg", "test_images/t{}.jpg", "train.csv", "image_id,label", "{0}.jpg,{1}", "t{}.jpg", "image_id,label", "4"
    ),
    "aptos2019-blindness-detection": simple(
        "train_images/{}.png", "test_images/t{}.png", "train.csv", "id_code,diagnosis", "{0},{1}", "t{}", "id_code,diagnosis", "0"
    ),
    "siim-isic-melanoma-classification": melanoma,
    "leaf-classification": leaf,
    "dog-breed-identification": simple(
        "train/{}.jpg", "test/t{}.jpg", "labels.csv", "id,breed", "{0},{1}", "t{}", "id,a,b,c", "0.5"
    ),
    "histopathologic-cancer-detection": simple(
        "train/{}.tif", "test/t{}.tif", "train_labels.csv", "id,label", "{0},{2}", "t{}", "id,label", "0"
    ),
    "invasive-species-monitoring": simple(
        "train/{}.jpg", "test/{}.jpg", "train_labels.csv", "name,invasive", "{0},{2}", "{}", "name,invasive", "0.5"
    ),
    "diabetic-retinopathy-detection": simple(
        "train/{}.jpeg", "test/t{}.jpeg", "trainLabels.csv", "image,level", "{0},{1}", "t{}", "image,level", "0"
    ),
    "cifar-10": simple(
        "train/{}.png", "test/{}.png", "trainLabels.csv", "id,label", "{0},{1}", "{}", "id,label", "a"
    ),
    "plant-pathology-2020-fgvc7": plant_2020,
    "paddy-disease-classification": paddy,
    "plant-seedlings-classification": seedlings,
    "dogs-vs-cats-redux-kernels-edition": cats,
    "state-farm-distracted-driver-detection": drivers,
    "skin-cancer-mnist-ham10000": ham,
    "chest-xray-pneumonia": pneumonia,
    "flowers-recognition": flowers,
    "ranzcr-clip-catheter-line-classification": several("0", "StudyInstanceUID,ETT,NGT", "1,1", "1,0", "0,1"),
    "plant-pathology-2021-fgvc8": several("rust", "image,labels", "scab", "scab rust", "rust", "rust complex", "complex"),
    "planet-understanding-the-amazon-from-space": several("clear haze", "image_name,tags", "clear", "clear road", "road", "haze", "haze road"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPETITIONS)
def test_a_competition_gets_its_settings(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    COMPETITIONS[name](folder)
    record = init_record(folder, (), tmp_path / "luigi.cfg")
    settings = {key: text for key, text in record["settings"]["Dataset"].items() if key not in ("name", "path")}
    settings |= record["settings"].get("Ensemble", {}) | record["settings"].get("Submission", {})
    said = "; ".join(f"`{key} = {text}`" for key, text in settings.items())
    assert said == TABLE[name]


def test_every_row_of_the_table_is_tried():
    assert list(TABLE) == list(COMPETITIONS)
    assert len(TABLE) >= 20
