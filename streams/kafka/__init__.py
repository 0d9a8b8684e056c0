"""Kafka clients: connections, their lifecycle, and the event log."""
