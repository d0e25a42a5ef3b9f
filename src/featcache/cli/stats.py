"""`featcache stats`: how the features of a cache are distributed."""

from featcache.cli.command import FILE_AND_TAP, Arguments, command, print_result, use_workers


@command("statistics of a cache's features", *FILE_AND_TAP, project=True)
def run(arguments: Arguments) -> int:
    """Show how the features of a cache are distributed: means, deviations, shares of zeros."""
    from featcache.inspection import stats_lines, stats_record

    use_workers(arguments)
    return print_result(arguments, stats_record(arguments.file, arguments.tap), stats_lines)
