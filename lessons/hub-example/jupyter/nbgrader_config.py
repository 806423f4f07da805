"""nbgrader for this course: read in the gradebook's folder, and on the hub by every student.

`make release` puts a copy into the gradebook. On the hub it lies in /etc/jupyter, so that
`nbgrader submit` leaves the same files behind.
"""

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "labkit"

# A submission is the notebooks, answers.json and the records. Weights stay where they are: they
# are hundreds of megabytes, and no grade depends on them.
c.CourseDirectory.ignore = [
    ".ipynb_checkpoints", ".*.lock", "*.pyc", "__pycache__",
    "model", "checkpoints", "tensorboard", "*.safetensors", "*.partial",
]  # fmt: skip
c.CourseDirectory.max_file_size = 20_000  # kB
# kB, weights included: nbgrader measures a folder before it leaves anything out.
c.CourseDirectory.max_dir_size = 100_000_000

# A cell that a student copied, split or turned into Markdown costs nobody a grade.
c.Autograde.sanitize_preprocessors.insert(0, "labkit.course.repair.RepairCells")
# Cells that no exercise depends on are not run: training says nothing about the exercises.
c.Autograde.autograde_preprocessors.insert(0, "labkit.course.nbgrader_plugins.SkipUngraded")
# Kernels are forked from one process that has imported torch and labkit already.
c.Autograde.autograde_preprocessors.insert(0, "labkit.course.warm_kernels.WarmKernels")
# After these two and the cells' run: a warning is no failure, and no number is no point.
c.Autograde.autograde_preprocessors.insert(3, "labkit.course.nbgrader_plugins.ReadPoints")
c.OverwriteCells.add_missing_cells = True
c.Execute.timeout = 180  # seconds a cell; a kernel is compiled for two GPUs in one
