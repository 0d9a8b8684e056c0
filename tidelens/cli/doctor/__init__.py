"""`tidelens doctor`: what this machine and its surroundings lack, and how each is mended."""
