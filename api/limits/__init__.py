"""Reserved for rate limits and quotas."""
