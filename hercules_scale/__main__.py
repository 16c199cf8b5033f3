"""``python -m hercules_scale`` is the console script."""

import sys

from hercules_scale.cli import main

sys.exit(main())
