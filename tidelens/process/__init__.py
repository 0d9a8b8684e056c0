"""Helpers of every process of Tidelens: logs, signals, threads and memory."""
