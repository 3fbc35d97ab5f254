"""Cost: what a run needs in memory and time, predicted before it starts and measured against the least possible."""
