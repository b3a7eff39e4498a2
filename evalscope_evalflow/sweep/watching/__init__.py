"""Evaluates checkpoints as training writes them: `evalflow watch`."""
