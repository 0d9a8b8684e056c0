"""The agreements every room relies on: events, codec, topics, messages, score, ports, errors.

Imports nothing else of Tidelens, so that a client can be built on it alone.
"""
