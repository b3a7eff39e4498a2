"""Marks beside a score: one sign for each doubt, the same in every table, plot and report."""

FEW = "~"  # its interval stands on few independent samples
INCOMPLETE = "*"  # it is not over all samples, or its run has no end
FEW_TEXT = "a rough interval: it stands on fewer than ten independent samples."
INCOMPLETE_TEXT = "incomplete: over fewer samples than were to be scored, or of a run whose end is not on record."
