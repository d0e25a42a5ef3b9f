"""`featcache status` and `featcache plan`: what is complete, what would run, and what that would cost."""

import argparse

from featcache.commands import OK, PROBLEM, screen


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Let a command that needs a project take settings beside luigi.cfg."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help="a setting beside luigi.cfg's, e.g. Features.image_size=96; may be repeated",
    )


def add_status(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache status`."""
    parser = commands.add_parser(
        "status",
        help="what is complete, and what would make it run",
        description="Show every stage of luigi.cfg's project: complete or not, size, age, and what would make it run.",
    )
    add_settings(parser)
    parser.add_argument("--check", action="store_true", help="exit with 1 when `Submit` would run anything")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> int:
    from featcache import status
    from featcache.configuration import configured_project

    record = status.status_record(configured_project(arguments.overrides))
    if arguments.json:
        screen.show_json(record)
    else:
        screen.show(status.status_lines(record))
    return PROBLEM if arguments.check and status.would_run(record) else OK


def add_plan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache plan`."""
    parser = commands.add_parser(
        "plan",
        help="rows, disk, memory and hours of a run, before it",
        description="Say what extracting the features would cost: rows, disk, memory, and hours on this machine.",
    )
    parser.add_argument(
        "--measure", action="store_true", help="measure the speed now, for some seconds; starts TensorFlow"
    )
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    from featcache import plan
    from featcache.configuration import configured_project

    record = plan.plan_record(configured_project(arguments.overrides), screen.Notices(), measure=arguments.measure)
    if arguments.json:
        screen.show_json(record)
    else:
        screen.show(plan.plan_lines(record))
    return OK
