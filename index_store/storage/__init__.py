"""Blob stores for snapshots: a folder or an S3 bucket."""
