"""Datasets: what goes in as text, and how the text that comes out is marked.

tatqa.py reads reports with tables and questions, answers.py is the form in which
a model writes an answer, encode.py is what the model reads, score.py is the
official mark. Nothing here imports torch or transformers.
"""
