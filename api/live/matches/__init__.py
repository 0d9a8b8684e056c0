"""Mode `matches`: alerts about newly applied items, and their replay from the log."""
