"""A finished run: its tables, status, edits by people, exports and plots."""
