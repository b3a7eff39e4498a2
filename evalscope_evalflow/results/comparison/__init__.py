"""Compares finished runs: pairs their samples, tests the differences, and says what may not be compared."""
