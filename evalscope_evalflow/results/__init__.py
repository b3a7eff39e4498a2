"""Finished runs: result objects, tables and exports."""
