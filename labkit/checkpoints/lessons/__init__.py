"""Define what each lesson asks and how it is checked: three files a lesson, found by name.

    questions_NN.yaml   the questions as data: text, points, fields with types and units, and in
                        words what a consistent answer agrees with. `assignment: "1.2"` gives a
                        question the number it has in the assignment; both numbers name it.
    rules_NN.py         RULES = {question id: rule(values, evidence) -> findings}, built from the
                        parts in `labkit.checkpoints.rules`
    exercises_NN.py     EXERCISES = {name: Exercise}, where the lesson has code to write

A lesson in several sittings has a file for each, such as questions_04_1.yaml.

`tests/checkpoints/cases_NN.py` holds for each question a right answer and five wrong ones, and a
test asks for them.
"""
