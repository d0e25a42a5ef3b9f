"""`featcache doctor`: whether machine, installation and settings can run the main job."""

import argparse

from featcache.commands import OK, PROBLEM, screen
from featcache.commands.command import Command


def _doctor(arguments: argparse.Namespace) -> int:
    from featcache.doctor import report

    record = report.doctor_record(arguments.overrides, screen.StderrProgress(arguments))
    return screen.print_result(arguments, record, report.doctor_lines, PROBLEM if report.failed(record) else OK)


DOCTOR = Command(
    "doctor",
    "whether machine, installation and settings are sound",
    "Look at versions, TensorFlow and GPU, processor, disk, luigi.cfg and weights: PASS, WARN or FAIL, and the fix.",
    _doctor,
    project=True,
)
