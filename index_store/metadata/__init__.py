"""The metadata index, which turns a filter into a bitmap of rows."""
