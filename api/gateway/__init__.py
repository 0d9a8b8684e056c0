"""Reserved for the gateway that asks several shards and merges their answers.

Today each node answers alone, from the index in its own process, through contracts/ports/search.py;
api/node.py holds what a node serves with.
"""
