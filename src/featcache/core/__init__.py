"""What every package stands on: the disk, keys, texts, progress. Imported by module."""
