"""Reserved for keyword search.

Today captions are found by their vectors only (index_store/search/), and their metadata is compared
by filters (contracts/filters/, index_store/metadata/).
"""
