"""The configuration of a run: sections with defaults and bounds, its file, its messages."""
