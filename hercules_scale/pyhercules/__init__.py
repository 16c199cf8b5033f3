"""Models of the paper's package, pyhercules, read and written as JSON."""
