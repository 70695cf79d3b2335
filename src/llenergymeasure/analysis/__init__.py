"""From what was measured to what it cost; pure functions, importing nothing heavy on the way in."""
