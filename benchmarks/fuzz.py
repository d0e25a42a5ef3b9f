"""Coverage-guided fuzzing of featcache's parsers with atheris, on the inputs in tests/corpus and small real ones.

    pip install 'featcache[fuzz]'
    python benchmarks/fuzz.py structure 60 [--work /tmp/fuzz] [--keep]

An input that raises anything but a FeatcacheError, crashes, hangs for 300 seconds or takes 4 GB ends the run and stays
in the work folder. With --keep, some small inputs that reached something new go into tests/corpus.
"""

import argparse
import logging
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

with atheris.instrument_imports(include=["featcache", "PIL"]):
    import parsers

    from featcache.errors import FeatcacheError

KEPT_BYTES, KEPT_FILES = 600, 12


def attack(name: str, options: list[str]) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    warnings.simplefilter("ignore")
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        target = parsers.TARGETS[name](Path(folder))

        def one(content: bytes) -> None:
            try:
                target.read(content)
            except FeatcacheError as error:
                assert "\n" not in str(error), f"more than one line: {error}"  # noqa: PT017 - most are refused

        atheris.Setup(["fuzz", *options], one)
        atheris.Fuzz()


def main() -> None:
    """Lay out the inputs, fuzz in a child, keep what is worth it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=parsers.TARGETS)
    parser.add_argument("seconds", type=int)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "featcache-fuzz")
    parser.add_argument("--keep", action="store_true")
    wanted = parser.parse_args()
    work, kept = wanted.work / wanted.target, parsers.CORPUS / wanted.target
    (work / "corpus").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(parsers.TARGETS[wanted.target](Path(folder)).seeds):
            (work / f"corpus/seed{number}").write_bytes(content)
    limits = [
        "-timeout=300",
        "-rss_limit_mb=4096",
        "-max_len=4096",
        f"-artifact_prefix={work}/",
        "-print_final_stats=1",
    ]
    words = [f"-max_total_time={wanted.seconds}", *limits, f"{work}/corpus", *([str(kept)] if kept.exists() else [])]
    done = subprocess.run([sys.executable, __file__, "--attack", wanted.target, *words], check=False)
    if wanted.keep:
        _keep(work, kept)
    sys.exit(done.returncode)


def _keep(work: Path, kept: Path) -> None:
    """Keep some small inputs, of all sizes, of those that libFuzzer kept: each reached something new when it was found."""
    found = [path for path in (work / "corpus").iterdir() if not path.name.startswith("seed")]
    small = sorted((path for path in found if path.stat().st_size <= KEPT_BYTES), key=lambda path: path.stat().st_size)
    kept.mkdir(parents=True, exist_ok=True)
    for path in small[:: max(1, len(small) // KEPT_FILES)]:
        shutil.copy(path, kept / path.name[:12])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--attack"]:
        attack(sys.argv[2], sys.argv[3:])
    else:
        main()
