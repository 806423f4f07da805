"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751), as a tuner of PEFT's.

PEFT has none, and the `adapters` library pins an older transformers. What a tuner has to be is
small: a configuration, a layer that wraps another, a class that puts it there. In return PEFT
saves it, loads it, switches it off, and holds it on a quantised base.

Call `register()` before PEFT reads a folder of this kind.
"""

import functools
from typing import Any

PEFT_TYPE = "BOTTLENECK"


@functools.cache
def register() -> tuple[type, type]:
    """Tell PEFT of this kind of adapter; return the classes of its configuration and its layer."""
    from dataclasses import dataclass

    import torch
    from peft import PeftConfig, mapping
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
    from torch import nn

    @dataclass
    class BottleneckConfig(PeftConfig):
        """Widths and places of the adapters."""

        size: int = 64
        target_modules: Any = None

        def __post_init__(self) -> None:
            super().__post_init__()
            self.peft_type = PEFT_TYPE

    class BottleneckLayer(nn.Module, BaseTunerLayer):
        """Return y + up(GELU(down(y))) for the output y of a linear layer; `up` starts at zero."""

        adapter_layer_names = ("bottleneck_down", "bottleneck_up")

        def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any) -> None:
            super().__init__()
            self.base_layer = base_layer
            self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
            self._disable_adapters = False
            self.merged_adapters: list[str] = []
            self._active_adapter = adapter_name
            self.update_layer(adapter_name, config)

        def update_layer(self, adapter_name: str, config: Any) -> None:
            """Add the two matrices of an adapter."""
            width = self.get_base_layer().out_features
            self.bottleneck_down[adapter_name] = nn.Linear(width, config.size)
            self.bottleneck_up[adapter_name] = nn.Linear(config.size, width)
            # The published start is near zero; at zero the first forward is the base model's.
            nn.init.zeros_(self.bottleneck_up[adapter_name].weight)
            nn.init.zeros_(self.bottleneck_up[adapter_name].bias)
            self._move_adapter_to_device_of_base_layer(adapter_name)
            self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

        def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            y: torch.Tensor = self.base_layer(x, *args, **kwargs)
            if self.disable_adapters:
                return y
            for name in self.active_adapters:
                if name in self.bottleneck_down:
                    down, up = self.bottleneck_down[name], self.bottleneck_up[name]
                    to_weight = y if torch.is_autocast_enabled(y.device.type) else y.to(
                        down.weight.dtype)  # fmt: skip
                    y = y + up(nn.functional.gelu(down(to_weight))).to(y.dtype)
            return y

    class BottleneckModel(BaseTuner):
        """Wrap every target of the configuration."""

        prefix = "bottleneck_"
        tuner_layer_cls = BottleneckLayer
        target_module_mapping: dict[str, list[str]] = {}

        def _create_and_replace(
            self, peft_config: Any, adapter_name: str, target: nn.Module, target_name: str,
            parent: nn.Module, current_key: str, **kwargs: Any,
        ) -> None:  # fmt: skip
            if isinstance(target, BottleneckLayer):
                target.update_layer(adapter_name, peft_config)
                return
            layer = BottleneckLayer(target, adapter_name, peft_config)
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)

    # PEFT's own `register_peft_method` takes names of its enumeration alone; its tables take any.
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = BottleneckModel.prefix
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = BottleneckConfig
    mapping.PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = BottleneckModel
    return BottleneckConfig, BottleneckLayer
