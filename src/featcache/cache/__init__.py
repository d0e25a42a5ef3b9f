"""The feature cache file: its layout, writer, reader and reuse. Knows nothing of Keras or Luigi."""
