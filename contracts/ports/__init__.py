"""The ports: protocols by which the rooms use each other, each in a module of its noun.

A port states what is promised; each implementation decides how to keep the promise. In-memory
implementations of the ports are in contracts/testing.
"""
