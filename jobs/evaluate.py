"""Measures a finished run again inside a Ray cluster.

Submit it with::

    ray job submit --working-dir . -- python jobs/evaluate.py RUN [--labels COLUMN]
"""

import sys

from hercules_scale.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
