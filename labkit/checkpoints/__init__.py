"""Check a student's answers to checkpoint questions against the student's own measurements.

check("02.2", lora_run=lora, full_run=full, time_ratio=1.4, memory_ratio=2.1, explanation="…")

lessons/      what each lesson asks: questions_NN.yaml, rules_NN.py, exercises_NN.py
collecting    finds them by their names
questions     reads the questions, and values as the types of their fields
rules         the parts that rules are built from
answers       answers.json: what was said, when, about which runs
exercises     runs code the student writes against a reference
checking      judges an answer: what is consistent, what contradicts, what is missing
card          how a verdict looks in a notebook and in a terminal
records, submissions, plausible   what was handed in, and whether it can have been measured
marks, grade, summary             what it is worth
"""

from labkit.checkpoints.answers import hand_in
from labkit.checkpoints.checking import answer, check, judge, render_status, status

__all__ = ["answer", "check", "hand_in", "judge", "render_status", "status"]
