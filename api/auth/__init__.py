"""Reserved for authentication and permissions."""
