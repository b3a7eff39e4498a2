"""GPUs: what the driver says, what is idle, and which of them an engine gets."""
