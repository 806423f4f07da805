"""What lesson 04 shows: the noise of int8, how a kernel is checked, how the original went wrong."""
