"""The messages between clients and server, version 1."""
