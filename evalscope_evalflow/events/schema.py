"""The version of the state files in a run folder. Here, as the worker writes some of them, too."""

# 0.1 wrote none, and counts as 1. Readers take both; a later one is read as far as its fields are known.
SCHEMA = 2
# How a file is opened whose JSON is written with `ensure_ascii=False`: half of a surrogate pair, which UTF-8 cannot
# hold, is written as Python's escape of it, which is JSON's.
ESCAPED = "backslashreplace"
