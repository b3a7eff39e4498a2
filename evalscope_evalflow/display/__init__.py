"""What a person sees while a run goes on: lines, and a live view of several models."""
