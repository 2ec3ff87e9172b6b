"""Run the command line: `python -m gradient_horizon` is the same as `gradient-horizon`."""

import sys

from gradient_horizon.commands.parser import main

if __name__ == "__main__":
    sys.exit(main())
