"""Two projects on one luigid, its web page's facts, and several workers: the same bytes, and nothing slow before a fork."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import runs
from command import environment, luigi, photos
from projects import small_project, write_photos


@contextlib.contextmanager
def luigid(folder):
    """A luigid of our own on a free port of this machine, ended with the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "luigi.cfg").write_text("[scheduler]\nstable_done_cooldown_secs = 0\n")
    start = "import sys; sys.argv[0] = 'luigid'; from luigi.cmdline import luigid; luigid()"
    flags = ["--port", str(port), "--address", "127.0.0.1", "--state-path", str(folder / "state")]
    process = subprocess.Popen(
        [sys.executable, "-c", start, *flags], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


def tasks(port, status=""):
    """What luigid's web page shows: task name -> facts."""
    query = f"http://127.0.0.1:{port}/api/task_list?data=" + urllib.request.quote(
        json.dumps({"status": status, "upstream_status": "", "limit": 1000})
    )
    with urllib.request.urlopen(query, timeout=10) as answer:  # the luigid above
        return json.load(answer)["response"]


def test_two_projects_on_one_luigid_both_run_and_show_their_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMPY_BACKBONE", "1")
    write_photos(tmp_path / "photos")
    first = {**photos(tmp_path / "photos"), "Features_image_size": "96"}
    first |= {"Dataset_source": "digits", "Dataset_path": ""}
    second = photos(tmp_path / "photos", Paths_artifacts="other")
    seen, stop = [], threading.Event()

    def look(port):
        while not stop.wait(0.2):
            seen.extend(task for task in tasks(port, "RUNNING").values() if task["progress_percentage"])

    with luigid(tmp_path) as port:
        server = ["--scheduler-host", "127.0.0.1", "--scheduler-port", str(port)]
        watcher = threading.Thread(target=look, args=(port,))
        watcher.start()
        try:
            outcome = luigi(tmp_path, "ExtractFeatures", *server, **first)
        finally:
            stop.set()
            watcher.join()
        assert (outcome.status, outcome.err) == (0, ""), outcome
        outcome = luigi(tmp_path, "Submit", *server, **second)
        assert (outcome.status, outcome.err) == (0, ""), outcome
        assert "ExtractSplit     train: 24 computed" in outcome.out, "not taken for the first project's"
        assert (tmp_path / "other/photos/submission.csv").is_file()
        done = tasks(port, "DONE")
        outcome = luigi(tmp_path, "Submit", *server, **second)
        assert outcome.status == 0
        assert "Submit           complete; nothing to do" in outcome.out
        outcome = luigi(tmp_path, "Submit", *server, "--Submission-gzip", "true", **second)
        assert [line.split()[0] for line in outcome.out.splitlines() if " s)" in line] == ["WriteSubmission"]
    scopes = {task["params"]["scope"] for task in done.values()}
    assert len(scopes) == 2
    assert {"IndexImages", "ExtractSplit", "ExtractFeatures", "TrainBag", "WriteSubmission"} <= {
        task["name"] for task in done.values()
    }
    halfway = [task for task in seen if task["name"] == "ExtractSplit" and 0 < task["progress_percentage"] < 100]
    assert halfway, "luigid's page shows how far the work is"
    assert all(f"of {1438:,} images" in (t["status_message"] or "") or "359" in t["status_message"] for t in halfway)
    assert any("images/s" in (task["status_message"] or "") for task in halfway)


def test_more_workers_write_the_same_submission_without_tensorflow_in_the_parent(tmp_path):
    project = small_project(tmp_path)
    project.set("Features", taps="block1_pool:avg, block2_pool:avg")
    project.set("Submission", format="probabilities")
    project.run()
    assert project.succeeded
    once = (project.artifacts / "submission.csv").read_bytes()
    project.set("Paths", artifacts=str(tmp_path / "more"))
    program = (
        "import atexit, os, sys; from luigi.cmdline import luigi_run; parent = os.getpid()\n"
        "def tell():\n"
        "    files = [os.path.realpath(f'/proc/self/fd/{name}') for name in os.listdir('/proc/self/fd')]\n"
        "    handles = [path for path in files if path.endswith(('.h5', '.npy'))]\n"
        "    slow = {'tensorflow', 'keras', 'distributed'} & set(sys.modules)\n"
        "    print('PARENT', sorted(slow), handles, file=sys.stderr)\n"
        "atexit.register(lambda: os.getpid() == parent and tell())\n"
        "luigi_run(sys.argv[1:])"
    )
    (tmp_path / "luigi").write_text(program)  # the name by which the stages know that Luigi's command line is at work
    words = [sys.executable, "luigi", "--module", "pipeline", *runs.command(project, workers=4)]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "PARENT [] []\n"), done
    assert (tmp_path / "more/photos/submission.csv").read_bytes() == once
