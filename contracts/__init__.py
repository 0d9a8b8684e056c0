"""The agreements that every room relies on: events, codec, topics, messages, score, ports, errors.

This room imports no other room of Tidelens, so that a client can be built on it alone.
"""
