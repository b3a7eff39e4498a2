"""`python -m evalscope_evalflow` is `evalflow`."""

import sys

from evalscope_evalflow.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main())
