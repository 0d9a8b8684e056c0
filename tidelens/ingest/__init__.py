"""Files on their way to content events."""
