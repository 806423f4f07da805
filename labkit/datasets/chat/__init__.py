"""Conversations, texts and preferences in the formats they are published in.

files       rows of JSON, JSON lines, gz and Parquet files, in a folder, or from the Hub
turns       what a row must be to be trained on
source      a data set made of a format: reading, splits, checksums, damaged rows
the others  a data set each: a function from a row to turns, and where the rows are from
"""
