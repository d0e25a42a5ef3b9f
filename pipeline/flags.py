"""Flags that aren't meant as they are written: unknown ones, and those that nothing in force looks at."""

import difflib
from collections.abc import Iterator, Sequence

from luigi.task_register import Register

from featcache.settings import ALONE, SECTIONS, Settings


def near_flag(arguments: Sequence[str]) -> str:
    """Suggest in brackets a flag for the first one that Luigi doesn't know; "" where none is near.

    A key without its section is that of the first section which has it: ``--image-size`` is ``--Features-image-size``.
    """
    known = {_flag(name if bare else f"{task}-{name}") for task, bare, name, _ in Register.get_all_params()}
    known |= {"--rerun", "--split", "--tap"}
    meant = {flag.lower(): flag for flag in known}
    for section, keys in reversed(list(SECTIONS.items())):
        meant |= {_flag(key): _flag(f"{section}-{key}") for key in keys if _flag(key) not in known}
    unknown = next((flag for flag in _flags(arguments) if flag not in known), None)
    near = difflib.get_close_matches(_flag(unknown[2:]).lower(), meant, 1) if unknown else None
    return f" (did you mean {meant[near[0]]}?)" if near else ""


def idle_flags(arguments: Sequence[str], settings: Settings) -> Iterator[str]:
    """Yield a line for each flag of ours that changes nothing under the settings in force, with what would make it count."""
    for flag in _flags(arguments):
        if flag.startswith("--ConvNet-") and flag != "--ConvNet-members" and settings.convnet.members == 0:
            yield f"{flag} changes nothing with [ConvNet] members = 0: add --ConvNet-members 1, or leave it out"
        if flag.startswith("--Cluster-") and flag != "--Cluster-scheduler" and settings.cluster.scheduler == ALONE:
            yield f"{flag} changes nothing with [Cluster] scheduler = none: add --Cluster-scheduler local, or leave it out"
        if flag == "--Features-augmentation" and settings.features.copies == 0:
            yield f"{flag} changes nothing with [Features] copies = 0: add --Features-copies 5, or leave it out"


def _flags(arguments: Sequence[str]) -> list[str]:
    return [word.partition("=")[0] for word in arguments if word.startswith("--")]


def _flag(name: str) -> str:
    return f"--{name}".replace("_", "-")
