"""The records of Kafka topics: their types and their bytes."""
