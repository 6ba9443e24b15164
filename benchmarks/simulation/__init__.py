"""A bucket and a dataset that are formulas, for planning code that is real."""
