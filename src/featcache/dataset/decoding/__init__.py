"""From a file's bytes to RGB pixels."""
