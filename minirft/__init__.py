"""Visual reinforcement fine-tuning you can read: GRPO on Qwen2-VL, on a laptop and on one consumer GPU."""

import time

STARTED = time.monotonic()  # before torch is imported, which takes seconds
