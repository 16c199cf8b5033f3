"""``python -m hercules_scale`` is the command ``hercules-scale``."""

import sys

from hercules_scale.commands.cli import main
from hercules_scale.runtime.job_environment import (
    delete_file,
    describe_differences,
    take_environment,
)

if __name__ == "__main__":
    take_environment()
    if differences := describe_differences():
        print(differences, flush=True)
    try:
        code = main()
    finally:
        delete_file()
    sys.exit(code)
