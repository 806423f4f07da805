"""Build a data set worth training on out of raw text, and audit one that exists.

sources, readers, markup    what files there are, and the documents in them
normalise, language, quality, pii    what becomes of one document
words, contamination, duplicates     what is compared between documents
instructions, unit, build, card      pairs, pieces of work, the data set and what is said of it
audit                                the same checks on a data set that exists
synthetic, synthetic_words           raw text with known faults, to measure all this by
"""
