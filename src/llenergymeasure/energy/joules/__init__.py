"""How many joules does a trace hold, and how far can that be trusted? Pure functions over a trace."""
