"""What every package rests on: disk, keys, rows, texts, progress. Imported by module."""
