"""What happens in a run: one frozen dataclass for each transition. The standard library alone.

The worker imports this package in environments that lack all else of ours.
"""
