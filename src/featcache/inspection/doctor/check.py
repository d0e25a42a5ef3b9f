"""The result of one check."""

from dataclasses import dataclass

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: what, in a word or two.
        state: ``PASS``; ``WARN``: it runs, but slower or worse than it could; ``FAIL``: the main job can't run.
        found: what was found.
        fix: what to do; "" for ``PASS``.
    """

    name: str
    state: str
    found: str
    fix: str = ""
