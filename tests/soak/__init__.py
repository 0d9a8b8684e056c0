"""Long runs, each a command that prints what it found; scripts/test runs none of them."""
