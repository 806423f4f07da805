"""The embedded set of general instructions: what is drawn, how it is asked, how files are written.

banks       words, names and sentences to draw from
kinds       a function each for what can be asked, with a right answer and one with a known flaw
generate    draw, split and write the files
"""
