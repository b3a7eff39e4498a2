"""The options of an engine's command line, read from its own parser."""
