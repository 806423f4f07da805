"""Every mistake is rejected by the test made for it; the original's test rejects none."""

from matplotlib.figure import Figure

from labkit.switchback.teaching import figures, rejections

FOUND = rejections.who_rejects_what()


def test_the_originals_test_accepts_every_layer_and_labkits_passes_all() -> None:
    assert not any(row["the original's"] for row in FOUND.values())
    assert not any(FOUND["labkit's"].values())


def test_each_mistake_is_rejected_by_the_test_for_it() -> None:
    made_for = ["an edit", "bfloat16", "zeros", "wide, bias", "transposed", "exact"]
    for (layer, row), test in zip(FOUND.items(), made_for, strict=False):
        assert row[test], (layer, test)
    assert len(FOUND) == len(made_for) + 1 and set(rejections.TESTS) == {
        "the original's",
        *made_for,
    }


def test_the_figure_says_how_many_each_rejects() -> None:
    ax = Figure().subplots()
    alt = figures.draw_rejections(ax, FOUND)
    assert "the original's 0" in alt and len(ax.texts) == len(FOUND) * len(rejections.TESTS)
