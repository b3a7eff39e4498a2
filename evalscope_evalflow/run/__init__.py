"""One model: its context, its life cycle, preflight, resuming and fingerprints."""
