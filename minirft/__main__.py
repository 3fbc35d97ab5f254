"""`python -m minirft` runs the same program as the command `minirft`."""

import sys

from minirft.commands import main

sys.exit(main())
