"""The ports in memory, for the tests of Tidelens and of its users."""
