"""Whole jobs: clustering, assignment of new items, evaluation; each a list of stages."""
