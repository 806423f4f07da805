"""What is said of the results: won, lost, undecided, and controls that failed."""

from typing import Any

from labkit.bench.switchback import report


def row(ratio: float, p: float, **changes: Any) -> dict[str, Any]:
    interval = {"value": ratio, "low": ratio - 0.01, "high": ratio + 0.01}
    values = {
        "tokens": 16, "in_features": 64, "out_features": 64, "mode": "full", "weight_scale": "row",
        "baseline": "eager", "backend": "cpu", "ratio": interval, "p_value": p, "p_holm": p,
        "a_a": {"value": 1.0, "low": 0.99, "high": 1.01}, "a_a_p_value": 0.5,
        "seconds": {"baseline": 2e-3, "candidate": 1e-3},
    }  # fmt: skip
    return values | changes


def test_a_size_is_won_or_lost_only_where_the_test_says_so() -> None:
    assert report.verdict(row(1.3, 0.001)) == "faster"
    assert report.verdict(row(0.7, 0.001)) == "slower"
    assert report.verdict(row(1.3, 0.001, p_holm=0.2)) == "≈"


def test_a_control_that_fails_is_said() -> None:
    sizes = [row(1.0, 0.5, tokens=t, a_a_p_value=p) for t, p in enumerate([0.5, 0.04, 0.3], 1)]
    (line,) = report.control_lines(sizes)
    assert "1 of 3 sizes" in line and "0 after Holm" in line and "do not trust" not in line
    (line,) = report.control_lines([*sizes, row(1.0, 0.5, tokens=9, a_a_p_value=1e-5)])
    assert "do not trust this table" in line


def test_the_parts_of_a_step_add_up() -> None:
    seconds = {
        "bf16_y": 1.0, "bf16_dx": 2.0, "bf16_dw": 4.0, "quantize_x": 8.0, "quantize_g": 16.0,
        "quantize_w_row": 32.0, "quantize_wt_row": 64.0, "int8_y": 128.0, "int8_dx": 256.0,
    }  # fmt: skip
    plain = report.step_parts({"seconds": seconds}, int8=False)
    assert sum(plain.values()) == 7
    assert sum(report.step_parts({"seconds": seconds}, int8=True).values()) == 4 + 504
    frozen = report.step_parts({"seconds": seconds}, int8=True, frozen=True)
    assert sum(frozen.values()) == 8 + 16 + 128 + 256
    packs = {"pack_w_row": 0.5, "pack_wt_row": 0.25, "packed_y": 0.125, "packed_dx": 0.0625}
    ordered = report.step_parts({"seconds": seconds | packs}, int8=True)
    assert sum(ordered.values()) == 4 + 24 + sum(packs.values())


def test_the_end_to_end_line_says_when_its_control_failed() -> None:
    found = row(1.1, 0.001) | {"layers": 2, "parameters": 2_500_000, "tokens": 64, "pairs": 10}
    line = report.end_to_end_line(found)
    assert "2 layers with 2.5 M parameters" in line and "0.002 s in 16 bit" in line
    assert "failed" not in line
    failed = {"a_a": {"value": 1.1, "low": 1.05, "high": 1.15}, "a_a_p_value": 0.001}
    assert "the control failed" in report.end_to_end_line(found | failed)


def test_light_is_where_int8_loses_in_the_maps() -> None:
    from labkit import plots

    rows = [
        row(ratio, 0.001, tokens=tokens, mode=mode, weight_scale=scale)
        for tokens, ratio in ((16, 0.5), (32, 1.0), (64, 2.0))
        for mode in ("full", "frozen")
        for scale in ("row", "tensor")
    ]
    figure, axes = plots.new_figure(2, 2)
    report.draw_heatmaps(figure, axes.flat, rows)
    (image,) = axes[0, 0].images
    colours = image.cmap(image.norm(image.get_array()))[0, :, :3].mean(axis=-1)
    assert colours[0] > colours[1] > colours[2]
