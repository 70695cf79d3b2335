"""How does a run's trace come about? Polling, pacing, and the file that survives a killed process."""
