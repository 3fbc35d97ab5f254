"""Show: pictures, curves, widgets and the report.  Everything here takes plain data and knows nothing of training."""
