"""Shapes of products that torch gives for bfloat16 alone, and computes in other types as well."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import _meta_registrations as registered


@contextmanager
def in_every_type() -> Iterator[None]:
    """Let a trace follow the products of experts, one for each group of rows, in float32 too.

    `torch.nn.functional.grouped_mm` computes in float32 by a product for each group; the rule for
    its shape (`torch._meta_registrations`) refuses all but bfloat16, and says so in a log. Other
    versions of torch than the pinned one may keep no rule by this name: theirs is left alone.
    """
    only_bfloat16 = getattr(registered, "_meta_grouped_mm_common", None)
    if only_bfloat16 is None:
        yield
        return

    def of_any(a: torch.Tensor, b: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("scale_a") is not None or a.dtype == torch.bfloat16 or a.dtype != b.dtype:
            return only_bfloat16(a, b, *args, **kwargs)
        return registered._create_grouped_mm_output_tensor(a, b, kwargs.get("offs"), a.dtype)

    registered._meta_grouped_mm_common = of_any
    try:
        yield
    finally:
        registered._meta_grouped_mm_common = only_bfloat16
