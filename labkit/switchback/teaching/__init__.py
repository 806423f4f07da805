"""Teach lesson 04: the noise of int8, how to check a kernel, the defects of the original."""
