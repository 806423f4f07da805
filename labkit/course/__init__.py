"""Build the course's notebooks, execute them, and publish their output as a site."""

from labkit.course.build import preview_course, run_course

__all__ = ["preview_course", "run_course"]
