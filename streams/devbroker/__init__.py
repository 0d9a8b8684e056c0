"""Apache Kafka as a child process, for a machine without a cluster."""
