"""Conformance suites for plug-ins. They need pytest; nothing in EvalFlow imports them."""
