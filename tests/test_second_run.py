"""A second Submit finds everything complete and costs a fraction of a second, because nothing slow is imported."""

import subprocess
import sys

from command import command, environment, photos
from projects import write_photos

SLOW = {"tensorflow", "keras", "sklearn", "pandas", "pyarrow", "dask", "xarray", "scipy", "distributed", "rich"}
TELL = (
    "import atexit, sys; from luigi.cmdline import luigi_run\n"
    "atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))\n"
    "luigi_run(sys.argv[1:])"
)


def test_a_second_run_imports_nothing_slow_and_shows_the_summary(tmp_path, numpy_backbone):
    settings = photos(write_photos(tmp_path / "photos"), Report_enabled="true")
    (tmp_path / "luigi").write_text(TELL)  # the name by which the stages know that Luigi's command line is at work
    words = [sys.executable, "luigi", *command("Submit", **settings)[3:]]
    first, second = (
        subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True) for _ in range(2)
    )
    assert first.returncode == second.returncode == 0, (first, second)
    assert second.stdout.startswith("Submit           complete; nothing to do (--rerun runs it again)")
    summary = first.stdout[first.stdout.index("\nrows") :]
    assert summary in second.stdout
    worked, modules = (set(done.stderr.split()) for done in (first, second))
    assert "pipeline.tasks" in modules
    assert not modules & SLOW
    assert not worked & {"tensorflow", "keras", "distributed"}, "[Cluster] scheduler = none is the default"
