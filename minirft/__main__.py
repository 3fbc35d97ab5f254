"""`python -m minirft` is `minirft`."""

import sys

from minirft.commands.cli import main

sys.exit(main())
