"""Checking artifacts: every fault of every file, read in a child process that a malformed file can't take along."""
