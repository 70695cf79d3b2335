"""Boards and machines whose true power is known, for tests and benchmarks to read."""
