"""Data: other people's pictures and annotations become samples, and `feed` decides which of them a step sees."""
