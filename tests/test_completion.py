"""`featcache completion`: the scripts in the shells themselves, where they are installed."""

import shutil
import subprocess

import pytest

from featcache.cli import main


def script(shell, tmp_path, capsys):
    assert main(["completion", shell]) == 0
    path = tmp_path / f"featcache.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


def asked(program, *arguments, cwd):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected", "left_out"),
    [
        (["sta"], ["stats", "status"], "show"),
        (["status", "--ch"], ["--check"], "--json"),
        (["status", "--set", "Features.im"], ["Features.image_size="], "Heads.folds="),
        (["show", "cac"], ["cache.h5"], "other.h5"),
        (["completion", ""], ["bash", "zsh", "fish"], "tcsh"),
    ],
    ids=["command", "argument", "setting", "file", "choice"],
)
def test_in_bash(words, expected, left_out, tmp_path, capsys):
    path = script("bash", tmp_path, capsys)
    for name in ("cache.h5", "other.h5"):
        (tmp_path / name).touch()
    line = " ".join(f"'{word}'" for word in ["featcache", *words])
    program = f"source {path}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_featcache; printf '%s\\n' ${{COMPREPLY[@]}}"
    found = asked("bash", "--norc", "-c", program, cwd=tmp_path)
    assert set(expected) <= set(found)
    assert left_out not in found


def test_in_fish(tmp_path, capsys):
    path = script("fish", tmp_path, capsys)
    found = asked("fish", "--no-config", "-c", f"source {path}; complete -C 'featcache sta'", cwd=tmp_path)
    assert {"stats", "status"} <= set(found)


def test_in_zsh(tmp_path, capsys):
    path = script("zsh", tmp_path, capsys)
    program = f'autoload -U compinit; compinit -D -u; eval "$(cat {path})"; print $_comps[featcache]'
    assert asked("zsh", "-f", "-c", program, cwd=tmp_path) == ["_shtab_featcache"]


def test_an_unknown_shell_is_refused(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
