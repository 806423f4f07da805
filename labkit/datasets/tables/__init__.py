"""The generator of the embedded questions: reports with tables, written from word lists."""
