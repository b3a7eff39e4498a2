"""Checkpoints: what their files say of format, size and shape, before any weight is read."""
