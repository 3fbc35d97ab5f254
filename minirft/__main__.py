"""`python -m minirft` is `minirft`."""

import sys

from minirft.commands import main

sys.exit(main())
