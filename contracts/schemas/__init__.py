"""The contracts as JSON Schema, OpenAPI and AsyncAPI documents, generated from the types."""
