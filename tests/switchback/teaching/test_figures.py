"""The published timings as data, the ratios drawn from them, and figures that can be read."""

import json
from itertools import combinations

import pytest

from labkit import plots
from labkit.datasets.tatqa import data_dir
from labkit.switchback.teaching import figures, noise

# Ratios computed from the publication's own totals (its column time_standard over time_global,
# mean of both orientations), independently of the parts kept here.
PUBLISHED = {
    1024: (0.90, 1.14, 1.22),
    1280: (1.08, 1.37, 1.42),
    2048: (1.24, 1.37, 1.43),
    4096: (1.34, 1.47, 1.49),
}


def test_ratios_are_the_published_ones():
    layers, tunings = figures.published_rows(data_dir())
    found = {(r["width"], r["tokens"]): round(r["ratio_tensor"], 2) for r in layers}
    tokens = (8192, 32768, 131072)
    assert found == {
        (w, t): ratio
        for w, ratios in PUBLISHED.items()
        for t, ratio in zip(tokens, ratios, strict=True)
    }
    assert [round(100 * row["saving"], 1) for row in tunings] == [9.7, 10.1, 9.5]
    shares = {(r["width"], r["tokens"]): round(r["quantize_share"], 2) for r in layers}
    assert shares[1024, 8192] == 0.33 and shares[4096, 131072] == 0.06


def test_every_figure_has_its_source_and_its_method():
    published = json.loads((data_dir() / "switchback_published.json").read_text())
    for part in ("a100_layer", "fine_tuning"):
        assert set(published[part]) == {"source", "hardware", "method", "rows"}
    assert "Nothing here was measured by this course" in published["note"]


def table() -> list[dict]:
    return [
        {
            "kind": kind,
            "depth": depth,
            "x_outlier": 2.0 + depth,
            **{f"{what}_{scale}_db": 30.0 - depth for what in ("y", "dx") for scale in SCALES},
        }
        for kind in figures.KINDS
        for depth in range(3)
    ]


SCALES = ("row", "tensor")


def gradients() -> dict[str, list[dict]]:
    return {
        f"model.layers.{n}.mlp.up_proj": [
            {"tokens": t, "precision": p, "noise_rms": t / 9, "snr_db": 30, "wrong_sign": 0.01}
            for t in (16, 32)
            for p in ("int8", "bfloat16")
        ]
        for n in (1, 2)
    }


def draw(name: str):
    rows = noise.noise_by_inner_dimension([64, 128])
    if name == "layers":
        figure, axes = plots.new_figure(4, 1, width=9, height=8, sharex=True)
        figures.draw_layers(figure, axes, table())
        return figure, axes
    if name == "gradients":
        figure, axes = plots.new_figure(1, 2, width=10, height=3.6, sharey=True)
        kept = [{"layer": layer, "y_row_db": 29.0} for layer in gradients()]
        figures.draw_weight_gradients(figure, axes, gradients(), kept)
        return figure, axes
    figure, axes = plots.new_figure(1, 2, width=10, height=3.6)
    if name == "published":
        figures.draw_published(axes, *figures.published_rows(data_dir()))
    else:
        figures.draw_noise(axes, rows, rows)
    return figure, axes


@pytest.mark.parametrize("name", ["published", "noise", "gradients", "layers"])
def test_axes_are_labelled_and_no_text_covers_another(name):
    figure, axes = draw(name)
    figure.canvas.draw()
    assert axes[-1].get_xlabel() or figure.get_supxlabel()
    assert all(ax.get_ylabel() or ax.get_title() or ax.get_legend() for ax in axes)
    renderer = figure.canvas.get_renderer()
    for ax in axes:
        texts = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
        texts += [*ax.get_xticklabels(), *ax.get_yticklabels()]
        boxes = [t.get_window_extent(renderer) for t in texts if t.get_visible() and t.get_text()]
        for one, other in combinations(boxes, 2):
            assert not one.padded(-2).overlaps(other.padded(-2)), name
    assert plots.png(figure, alt="a figure for a test").startswith(b"\x89PNG")


def test_tables_line_up(capsys):
    figures.print_table([{"a": 1.5, "b": "x"}, {"a": 22.25, "b": "long"}], {"a": ".1f", "b": "s"})
    assert capsys.readouterr().out.splitlines() == ["   a     b", " 1.5     x", "22.2  long"]


def test_light_is_where_int8_has_a_hard_time_in_every_map():
    """Draw a model whose last block is the worst in every respect: its column is the lightest."""
    rows = [
        {**row, "x_outlier": 2.0 ** row["depth"], "y_tensor_db": 29.0 - 3 * row["depth"]}
        | {"dx_tensor_db": 29.0 - 3 * row["depth"]}
        for row in table()
    ]
    figure, axes = plots.new_figure(4, 1, width=9, height=8, sharex=True)
    alt = figures.draw_layers(figure, axes, rows)
    assert alt.count("of block 2") == 4 and "outlier factor of X (log₂) 2.0" in alt
    for ax in axes:
        (image,) = ax.images
        colours = image.cmap(image.norm(image.get_array()))[0, :, :3].mean(axis=-1)
        assert list(colours) == sorted(colours), ax.get_title()


def test_alt_texts_say_the_ends_of_what_is_drawn():
    _, axes = plots.new_figure(1, 2)
    alt = figures.draw_published(axes, *figures.published_rows(data_dir()))
    assert "from 0.90 at width 1024 and 8,192 tokens to 1.49 at width 4096" in alt
    assert alt.endswith("on an A40 from 1.10 to 1.11.")
    _, axes = plots.new_figure(1, 2)
    rows = [{"inner": n, "noise_rms": n / 100, "snr_db": n} for n in (20, 40)]
    alt = figures.draw_noise(axes, rows, [{**row, "snr_db": 3} for row in rows])
    assert "from 0.2 to 0.4 between inner dimensions of 20 and 40" in alt
    assert "40 dB without an outlier feature and 3 dB with" in alt


def test_the_alt_text_counts_the_layers_below():
    figure, axes = plots.new_figure(1, 2, width=10, height=3.6)
    kept = [{"layer": name, "y_row_db": db} for name, db in zip(gradients(), (31, 29), strict=True)]
    alt = figures.draw_weight_gradients(figure, axes, gradients(), kept)
    assert "with 32 tokens it is below that of Y in 1 of them" in alt
