"""Builds a hierarchy inside a Ray cluster.

Submit it with::

    ray job submit --working-dir . -- python jobs/build_hierarchy.py CONFIG.yaml [--set a.b=value]
"""

import sys

from hercules_scale.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
