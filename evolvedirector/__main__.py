"""Run the command line as `python -m evolvedirector ...` or `torchrun -m evolvedirector ...`."""

import sys

from evolvedirector.cli import main

if __name__ == "__main__":
    sys.exit(main())
