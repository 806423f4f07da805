"""Build the course's notebooks, execute them, and publish their output as a site."""

from labkit.course.build import run_course

__all__ = ["run_course"]
