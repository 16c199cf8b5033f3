"""The configuration of a run: sections with defaults and bounds, YAML file, error messages."""
