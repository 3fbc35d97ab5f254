"""Visual reinforcement fine-tuning you can read: GRPO on Qwen2-VL, on a laptop and on one consumer GPU."""

import logging
import time

STARTED = time.monotonic()  # before torch is imported, which takes seconds
# On some CPUs bitsandbytes, when it is imported, misses a package that would fetch faster kernels from the network.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
