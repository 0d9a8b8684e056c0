"""Long runs, not part of scripts/test: each is a command that prints what it found."""
