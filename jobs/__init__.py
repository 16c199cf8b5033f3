"""Entry points for ``ray job submit``, without logic."""
