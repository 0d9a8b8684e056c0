"""Reserved for keyword search."""
