"""`featcache ...`, command by command: each parses its arguments, calls the library and prints lines."""

# Exit codes of every command.
OK, PROBLEM, USAGE = 0, 1, 2
