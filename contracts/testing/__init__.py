"""In-memory implementations of the ports, for the tests of Tidelens and of its users.

They keep the promises of the ports, so that tests need no mocks.
"""
