"""The course as a whole: build the notebooks, run them, and bind what they show into a site."""

from labkit.course.build import run_course

__all__ = ["run_course"]
