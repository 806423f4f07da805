"""Lesson 04: answers that fit and answers that do not, and functions right and wrong."""

from labkit.runs import measurements

DOWN, VALUE = "model.layers.2.mlp.down_proj", "model.layers.19.self_attn.v_proj"
LAYERS = [
    {"layer": DOWN, "x_absmax": 8.0, "x_rms": 2.0, "w_absmax": 1.5, "w_rms": 0.1,
     "y_row_db": 38.0, "y_tensor_db": 24.0, "dx_row_db": 37.0, "dx_tensor_db": 30.0},
    {"layer": VALUE, "x_absmax": 60.0, "x_rms": 1.0, "w_absmax": 0.5, "w_rms": 0.1,
     "y_row_db": 20.0, "y_tensor_db": 19.0, "dx_row_db": 39.0, "dx_tensor_db": 25.0},
]  # fmt: skip
GRADIENTS = {
    DOWN: [(16, 44.0), (512, 41.0)],
    VALUE: [(16, 42.0), (512, 17.0)],
}
STEP = {
    "baseline_seconds": 2.2, "switchback_seconds": 2.0,
    "ratio": {"value": 1.1, "low": 1.05, "high": 1.15},
    "control": {"value": 1.0, "low": 0.98, "high": 1.02}, "control_p_value": 0.6,
}  # fmt: skip


def keep_study(layers=None, gradients=None) -> None:
    measurements.keep("int8-layers", {
        "layers": layers or LAYERS, "gradient_layers": LAYERS,
        "weight_gradients": {
            name: [{"tokens": tokens, "precision": precision, "snr_db": db + more}
                   for tokens, db in rows for precision, more in (("int8", 0), ("bfloat16", 15))]
            for name, rows in (gradients or GRADIENTS).items()
        },
    })  # fmt: skip


def keep_step(**changes) -> None:
    measurements.keep("int8-step", {**STEP, **changes})


def records(a_record) -> None:
    keep_study()
    keep_step()


def no_cost() -> None:
    """Keep a study in which one scale costs nothing anywhere, and gains a little."""
    free = [{**row, "y_tensor_db": row["y_row_db"] + 0.2} for row in LAYERS]
    keep_study([{**free[0], "y_tensor_db": 38.0}, free[1]])


def slow_machine() -> None:
    keep_step(
        baseline_seconds=190.0, switchback_seconds=250.0,
        ratio={"value": 0.76, "low": 0.7, "high": 0.83},
    )  # fmt: skip


def a_tie() -> None:
    keep_step(ratio={"value": 1.0, "low": 0.97, "high": 1.03}, switchback_seconds=2.2)


def nothing_holds() -> None:
    keep_step(control={"value": 1.09, "low": 1.02, "high": 1.15}, control_p_value=0.01)


def narrow_control() -> None:
    """Keep a control whose interval misses 1 by a little, which its test does not call one."""
    keep_step(control={"value": 1.02, "low": 1.002, "high": 1.05}, control_p_value=0.09)


TABLE = {
    "04.1": (
        {"layer": DOWN, "group": "X", "absmax": 8.0, "spread": 2.0, "outlier_factor": 4.0}
        | {"snr_db": 37.8},
        [
            ({"layer": "banana"}, "layer is none that was watched"),
            ({"outlier_factor": 0.25}, "outlier_factor is below what absmax and spread give"),
            ({"snr_db": 46.8}, "snr_db is above what the formula gives"),
            ({"snr_db": 40.8}, "snr_db is above what the formula gives"),
            ({"spread": 0.0}, "spread is not above zero"),
            ({"absmax": 16.0, "outlier_factor": 8.0, "snr_db": 31.8}, "absmax is above that of X"),
            ({"group": "W"}, "absmax is above that of W"),
            ({"snr_db": 3.78}, "snr_db is below what the formula gives"),
        ],
    ),
    "04.2": (
        {"layer": VALUE, "tokens_few": 16, "tokens_many": 512, "few_db": 42.0, "many_db": 17.0}
        | {"lost_db": 25.0, "y_db": 20.0, "side": "below Y"},
        [
            ({"layer": "banana"}, "layer is none that was watched"),
            ({"tokens_many": 8}, "tokens_many is not above tokens_few"),
            ({"tokens_many": 500}, "tokens_many is no count that was measured"),
            ({"few_db": 57.0, "lost_db": 40.0}, "few_db is above that of your study"),
            ({"few_db": 17.0, "many_db": 42.0, "lost_db": -25.0}, "few_db is below that of your"),
            ({"lost_db": -25.0}, "lost_db is below few_db less many_db"),
            ({"y_db": 39.0}, "y_db is above that of Y"),
            ({"side": "above Y"}, "side is not what many_db and y_db say"),
        ],
    ),
    "04.3": (
        {"layer": DOWN, "product": "Y", "row_db": 38.0, "tensor_db": 24.0}
        | {"lost_db": 14.0, "noise_factor": 25.0},
        [
            ({"layer": "banana"}, "layer is none that was watched"),
            ({"layer": VALUE, "row_db": 20.0, "tensor_db": 19.0, "lost_db": 1.0}
             | {"noise_factor": 1.26}, "layer is not the one whose Y loses most"),
            ({"product": "dX"}, "tensor_db is below that of dX"),
            ({"lost_db": -14.0}, "lost_db is below row_db less tensor_db"),
            ({"noise_factor": 5.0}, "noise_factor is below what lost_db means"),
            ({"noise_factor": 14.0}, "noise_factor is below what lost_db means"),
            ({"row_db": 24.0, "tensor_db": 38.0}, "row_db is below that of Y"),
        ],
    ),
    "04.4": (
        {"card": "a100-80gb", "rate": 2.0, "full_ceiling": 1.5, "frozen_ceiling": 2.0},
        [
            ({"rate": 4.0, "full_ceiling": 2.0, "frozen_ceiling": 4.0}, "rate is above that of"),
            ({"full_ceiling": 2.0}, "full_ceiling is above three products over two in int8"),
            ({"frozen_ceiling": 1.5}, "frozen_ceiling is below two products over two in int8"),
            ({"rate": 0.0}, "rate is not above zero"),
            ({"card": "banana", "rate": 100.0}, "rate is above that of any unit"),
            ({"full_ceiling": 1.25}, "full_ceiling is below three products"),
        ],
    ),
    "04.5": (
        {"baseline_seconds": 2.2, "switchback_seconds": 2.0, "ratio": 1.1, "low": 1.05}
        | {"high": 1.15, "control_low": 0.98, "control_high": 1.02, "verdict": "faster"},
        [
            ({"ratio": 0.91}, "ratio is below that of your benchmark"),
            ({"baseline_seconds": 3.3, "ratio": 1.65}, "baseline_seconds is above that of your"),
            ({"low": 0.97}, "low is below that of your benchmark"),
            ({"verdict": "slower"}, "verdict is not what low and high say"),
            ({"control_low": 1.01, "verdict": "cannot be told"}, "control_low is above that of"),
            ({"verdict": "cannot be told"}, "verdict gives up although the control holds 1"),
            ({"switchback_seconds": 0.0}, "switchback_seconds is not above zero"),
        ],
    ),
}  # fmt: skip

HONEST = {
    "04.1": [
        ({"group": "W", "absmax": 1.5, "spread": 0.1, "outlier_factor": 15.0, "snr_db": 26.3},
         None),
        ({"absmax": 8.02, "spread": 2.04, "outlier_factor": 3.9, "snr_db": 38.0}, None),
        # All numbers alike: 127 on both ends of the ruler, the best there is.
        ({"absmax": 2.0, "spread": 2.0, "outlier_factor": 1.0, "snr_db": 49.9},
         lambda: keep_study([{**LAYERS[0], "x_absmax": 2.0}, LAYERS[1]])),
    ],
    "04.2": [
        ({"layer": DOWN, "few_db": 44.0, "many_db": 41.0, "lost_db": 3.0, "y_db": 38.0}
         | {"side": "above Y"}, None),
        ({"few_db": 40.0, "many_db": 43.0, "lost_db": -3.0, "side": "above Y"},
         lambda: keep_study(gradients={VALUE: [(16, 40.0), (512, 43.0)]})),
        ({"many_db": 20.0, "lost_db": 22.0, "side": "above Y"},
         lambda: keep_study(gradients={VALUE: [(16, 42.0), (512, 20.0)]})),
    ],
    "04.3": [
        ({"layer": VALUE, "product": "dX", "row_db": 39.0, "tensor_db": 25.0}, None),
        ({"tensor_db": 38.0, "lost_db": 0.0, "noise_factor": 1.0}, no_cost),
        ({"lost_db": 14.4, "noise_factor": 27.5}, None),
    ],
    "04.4": [
        ({"card": "my laptop", "rate": 0.5, "full_ceiling": 0.6, "frozen_ceiling": 0.5}, None),
        ({"card": "this machine", "rate": 1.0, "full_ceiling": 1.0, "frozen_ceiling": 1.0}, None),
        ({"card": "NPU of tomorrow", "rate": 4.0, "full_ceiling": 2.0, "frozen_ceiling": 4.0},
         None),
    ],
    "04.5": [
        ({"baseline_seconds": 190.0, "switchback_seconds": 250.0, "ratio": 0.76, "low": 0.7}
         | {"high": 0.83, "verdict": "slower"}, slow_machine),
        ({"switchback_seconds": 2.2, "ratio": 1.0, "low": 0.97, "high": 1.03}
         | {"verdict": "no difference found"}, a_tie),
        ({"control_low": 1.02, "control_high": 1.15, "verdict": "cannot be told"}, nothing_holds),
        ({"control_low": 1.0, "control_high": 1.05}, narrow_control),
    ],
}  # fmt: skip
"""Odd but true: a question's changes, and what is measured before (None: as in `records`)."""
