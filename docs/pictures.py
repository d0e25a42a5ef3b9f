"""Make docs/images/*.svg from real commands, as a terminal of 118 columns shows them; tmux is that terminal.

    python docs/pictures.py

Runs the main job in a temporary folder; the pictures show what was really on the screen.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
BIN = Path(sys.executable).parent
WIDTH, HEIGHT = 118, 90


def picture(name: str, title: str, commands: list[str], folder: Path) -> None:
    """Run shell commands in `folder` and draw them with what they show."""
    console = Console(record=True, width=WIDTH, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for command in commands:
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text.from_ansi(screen(command, folder)), soft_wrap=False)
    console.save_svg(str(IMAGES / f"{name}.svg"), title=title)


def screen(command: str, folder: Path) -> str:
    """What a terminal shows when a command has ended, with its colours."""
    environment = {
        **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "KERAS_HOME": str(folder / "keras"), "TERM": "xterm-256color",
    }  # fmt: skip
    tmux = ("tmux", "-L", f"pictures-{secrets.token_hex(4)}")  # a server each: one that ends takes a moment
    line = f"{command}; {' '.join(tmux)} wait-for -S done; sleep 60"
    size = ("-x", str(WIDTH), "-y", str(HEIGHT))
    subprocess.run([*tmux, "new-session", "-d", *size, "bash", "-c", line], cwd=folder, env=environment, check=True)
    try:
        subprocess.run([*tmux, "wait-for", "done"], check=True)
        shown = subprocess.run([*tmux, "capture-pane", "-e", "-p"], capture_output=True, text=True, check=True)
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)
    return shown.stdout.rstrip()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = (ROOT / "luigi.cfg").read_text()
        (folder / "luigi.cfg").write_text(settings.replace("\nweights = auto\n", "\nweights = random\n"))
        picture("submit", "featcache", ["luigi --module pipeline Submit"], folder)
        looks = ["featcache ls", "featcache show artifacts/digits/features/train-*.h5", "featcache status"]
        picture("show", "featcache show", looks, folder)
        picture("doctor", "featcache doctor", ["featcache doctor"], folder)
