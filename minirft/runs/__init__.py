"""Runs: a run on disk, from its settings to its log, checkpoints, answers and exports, and the loop that drives it."""
