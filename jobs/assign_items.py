"""Puts new items into the clusters of a run inside a Ray cluster.

Submit it with::

    ray job submit --working-dir . -- python jobs/assign_items.py RUN INPUT --output URI
"""

import sys

from hercules_scale.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["assign", *sys.argv[1:]]))
