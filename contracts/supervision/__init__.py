"""Supervision of processes and tasks that are started again when they fail."""
