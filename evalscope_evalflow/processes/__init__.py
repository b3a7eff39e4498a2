"""Processes that cannot be left behind: guards, exit reasons, ports, the registry of runs, orphans, signals."""
