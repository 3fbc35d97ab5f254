"""Rewards: a completion's text becomes a parsed answer, the answer earns named parts, the parts make one score.

Here are also the boxes and frames that answers are written in, the paper's prompts, the released code's readings and
the red team that attacks a reward.
"""
