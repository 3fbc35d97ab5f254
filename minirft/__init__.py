"""Visual reinforcement fine-tuning you can read: GRPO on Qwen2-VL, on a laptop and on one consumer GPU."""
