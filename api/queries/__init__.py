"""Queries on their way to an answer: prepared, encoded, and waited for."""
