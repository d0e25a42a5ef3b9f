"""A small project whose report has something to find."""

import shutil

from projects import CLASSES, small_project, write_image

HOSTILE = "<img src=x onerror=alert(1)>"
PLANTED = "square/planted.png"  # looks like a disc
COPY = "copy.png"  # of a training image, in test


def reported_project(folder):
    """Photos in four colours, one class and one file with hostile names, run to the end."""
    project = small_project(folder)
    photos = folder / "photos"
    for i in range(8):
        write_image(photos / "train" / HOSTILE / f"{i}.png", (200, 60, 200), 500 + i)
    write_image(photos / 'train/disc/"><script>alert(2)<script>.png', CLASSES["disc"], 600)
    write_image(photos / "train" / PLANTED, CLASSES["disc"], 601)
    for name, colour in CLASSES.items():
        write_image(photos / "valid" / name / "v.png", colour, 700)
    shutil.copy(photos / "train/disc/0.png", photos / "test" / COPY)
    (photos / "train/disc/broken.png").write_bytes(b"no image")
    project.set("Heads", schedule="1e-2x12")
    project.set("Report", enabled="true")
    project.run()
    assert project.succeeded
    return project
