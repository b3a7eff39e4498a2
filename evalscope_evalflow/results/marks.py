"""Marks beside a score: one sign for each doubt, the same in every table, plot and report."""

FEW = "~"  # its interval stands on few groups of samples
INCOMPLETE = "*"  # it is not over all samples, or its run has no end
FEW_TEXT = "fewer than ten groups of samples, weighted by their size: the interval is a rough one."
INCOMPLETE_TEXT = "incomplete: over fewer samples than were to be scored, or of a run whose end is not on record."
