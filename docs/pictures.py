"""Make docs/images/*.svg from real commands, as a terminal of 118 columns shows them.

    python docs/pictures.py

Runs the main job in a temporary folder; the pictures show what it really printed.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
BIN = Path(sys.executable).parent


def picture(name: str, title: str, commands: list[str], folder: Path) -> None:
    """Run shell commands in `folder` and draw them with what they print."""
    console = Console(record=True, width=118, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "COLUMNS": "118",
        "FORCE_COLOR": "1",  # as on a terminal
        "TERM": "xterm-256color",
        "KERAS_HOME": str(folder / "keras"),
    }
    for command in commands:
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        shell = ["bash", "-c", command]
        done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        console.print(Text.from_ansi((done.stdout + done.stderr).rstrip()), soft_wrap=False)
    IMAGES.mkdir(exist_ok=True)
    console.save_svg(str(IMAGES / f"{name}.svg"), title=title)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "luigi.cfg").write_text((ROOT / "luigi.cfg").read_text())
        picture("submit", "featcache", ["luigi --module pipeline Submit --Features-weights random"], folder)
        picture("doctor", "featcache doctor", ["featcache doctor --quiet --set Features.weights=random"], folder)
        looks = ["featcache ls", "featcache show artifacts/digits/features/train-*.h5", "featcache status"]
        picture("show", "featcache show", looks, folder)
