"""Reserved for the gateway that asks several shards and merges their answers."""
