"""`python -m ladle`: the command line, for where the script `ladle` is not on the path."""

import sys

from ladle.cli import main

if __name__ == "__main__":
    sys.exit(main())
