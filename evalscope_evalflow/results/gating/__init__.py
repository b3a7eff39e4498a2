"""Decides by a policy whether a run may follow its baseline."""
