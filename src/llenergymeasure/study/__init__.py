"""Many experiments as one piece of work that finishes, whatever fails on the way."""
