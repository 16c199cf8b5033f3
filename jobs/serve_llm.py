"""Serves the language model of a configuration alone, until the job is stopped.

Submit it with::

    ray job submit --working-dir . -- python jobs/serve_llm.py CONFIG.yaml [--port N]
"""

import sys

from hercules_scale.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
