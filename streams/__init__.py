"""Kafka: the event log, topics, the index maintainer, lag, the local broker, the Faust app."""
