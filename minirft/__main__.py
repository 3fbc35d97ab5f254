"""`python -m minirft` is `minirft`."""

import sys

from minirft.cli import main

sys.exit(main())
