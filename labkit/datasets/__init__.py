"""Datasets: what goes in as text, and how the text that comes out is marked.

base.py is what a data set and an example are, registry.py has the data sets by name.
tatqa.py reads reports with tables and questions, answers.py is the form in which
a model writes an answer, encode.py is what the model reads, score.py is the
official mark; report_questions.py makes them a data set. chat/ reads conversations,
texts and preferences in published formats, instructions/ writes the embedded ones, and
templates.py has chat templates by name. Nothing here imports torch or transformers.
"""
