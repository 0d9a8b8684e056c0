"""Filters over metadata: their meaning, their JSON form and their text form."""
