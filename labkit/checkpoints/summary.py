"""Write the summary page of a grading: points, where the class went wrong, what needs a person.

One file without links or scripts, so that it can be mailed and opened anywhere: figures are inside
it as PNG. Everything that comes from a submission is escaped, and the page forbids scripts besides.
"""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit import plots
from labkit.checkpoints.alike import Pair
from labkit.checkpoints.questions import load_questions, marked_questions
from labkit.checkpoints.wrong import where_wrong

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labkit.checkpoints.marks import Graded

# state → (letter in the table, words, colour)
STATES = {
    "consistent": ("✓", "everything fits", plots.COLOURS["green"]),
    "incomplete": ("…", "something missing", plots.COLOURS["yellow"]),
    "contradicts": ("✗", "something does not fit", plots.COLOURS["vermilion"]),
    "refused": ("!", "not an answer", plots.COLOURS["black"]),
    "unanswered": ("–", "not answered", "#d1d9e0"),
}
MOST_BINS = 20

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem }
img { max-width: 100%; height: auto }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px }
th, td { border-bottom: 1px solid #d1d9e0; padding: .2rem .45rem; text-align: left }
td.mark { text-align: center }
td.lines { min-width: 22rem }
.flag { color: #b42318 }
td.bar { width: 16rem }
td.bar span { background: #d55e00; display: block; height: .8em }
td.text { vertical-align: top; width: 38% }
"""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Grades: summary</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{{ style }}</style></head><body>
<h1>Grades: summary</h1>
<p>{{ graded|length }} submissions; {{ flagged }} to look into, {{ remarked }} with remarks on \
reading them.
Points count findings that agree; explanations are for a person, in the rubric columns of the CSV.
Nothing listed here took any points.</p>
{% for each in figures %}
<p><img width="{{ each.width }}" alt="{{ each.alt }}" \
src="data:image/png;base64,{{ each.png }}"></p>
{% endfor %}
<h2>Where the class went wrong</h2>
<p>What the answers to each question were told, and how many students were told it. The answer key
says which misconception stands behind it.</p>
<div class="wide"><table>
<tr><th>question</th><th colspan="2">students, of {{ graded|length }}</th>
<th>what does not fit, or is missing</th></tr>
{% for question, missed in wrong.items() %}
{% for each in missed %}{% set percent = 100 * each.count / graded|length %}
<tr><td>{{ question if loop.first }}</td><td>{{ each.count }}</td>
<td class="bar"><span style="width: {{ "%.0f"|format(percent) }}%"></span></td>
<td title="{{ each.students|join(", ") }}">{{ each.sentence }}</td></tr>
{% else %}
<tr><td>{{ question }}</td><td>0</td><td></td><td>every answer fits</td></tr>
{% endfor %}
{% endfor %}</table></div>
<h2>Explanations that are alike</h2>
{% if alike %}
<p>Side by side for a person to judge: students who worked together write alike as well. The share
is of the words that stand in the same order in both. Marked are the explanations of
{{ marked|join(", ") }}.</p>
<div class="wide"><table>
<tr><th>question</th><th>share</th><th>one</th><th>the other</th></tr>
{% for each in alike %}
<tr><td>{{ each.question }}</td><td>{{ "%.0f"|format(100 * each.ratio) }} %</td>
<td class="text"><b>{{ each.one }}</b><br>{{ each.texts[0] }}</td>
<td class="text"><b>{{ each.other }}</b><br>{{ each.texts[1] }}</td></tr>
{% endfor %}</table></div>
{% else %}<p>None.</p>{% endif %}
<h2>Submissions</h2>
<p>{% for letter, words, _ in states.values() %}
{{ letter }} {{ words }}{{ "" if loop.last else ", " }}{% endfor %}</p>
<div class="wide"><table>
<tr><th>student</th><th>points</th>
{% for name in questions %}<th>{{ name }}</th>{% endfor %}
<th>to look into, remarks</th></tr>
{% for each in graded %}
<tr><td>{{ each.submission.student }}</td><td>{{ "%g"|format(each.points) }}</td>
{% for mark in each.marks.values() %}{% set letter, words, _ = states[mark.state] %}
<td class="mark" title="{{ ([words] + mark.found|list)|join("; ") }}">{{ letter }}</td>
{% endfor %}
<td class="lines">{% for line in each.flags %}<span class="flag">{{ line }}</span><br>{% endfor %}
{% for line in each.submission.remarks %}{{ line }}<br>{% endfor %}</td></tr>
{% endfor %}</table></div>
{% if ignored %}<p>Left aside: {{ ignored|join(", ") }}</p>{% endif %}
</body></html>
"""


def points_figure(graded: Sequence["Graded"]) -> tuple["Figure", str]:
    """Return the distribution of points over submissions."""
    from matplotlib.ticker import MaxNLocator

    points = [each.points for each in graded]
    possible = sum(asked.points for asked in load_questions().values())
    figure, axes = plots.new_figure(height=3.0)
    axes.hist(points, bins=min(MOST_BINS, possible), range=(0, possible),
              color=plots.COLOURS["blue"], edgecolor="white")  # fmt: skip
    axes.set_xlabel(f"points, of {possible}")
    axes.set_ylabel("submissions")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    middle = sorted(points)[len(points) // 2]
    alt = f"Histogram of the points of {len(points)} submissions, half of them {middle:g} or more"
    return figure, alt


def questions_figure(graded: Sequence["Graded"]) -> tuple["Figure", str]:
    """Return for each question the share of submissions in each state."""
    ids = list(load_questions())
    figure, axes = plots.new_figure(height=1.4 + 0.24 * len(ids))
    left = [0.0] * len(ids)
    for state, (_, words, colour) in STATES.items():
        shares = [
            100 * sum(each.marks[name].state == state for each in graded) / len(graded)
            for name in ids
        ]
        axes.barh(ids, shares, left=left, color=colour, label=words, height=0.75)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of submissions (%)")
    axes.set_ylabel("question")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3, fontsize="small")
    return figure, "For each question, the share of submissions whose answer fits, or does not"


def page(graded: Sequence["Graded"], ignored: Sequence[str], alike: Sequence[Pair]) -> str:
    """Return the summary page of a grading as HTML, with the explanations that are alike."""
    from jinja2 import Environment

    figures = [
        {
            "alt": alt, "width": round(figure.get_figwidth() * plots.DPI / 2),
            "png": base64.b64encode(plots.png(figure, alt=alt)).decode(),
        }
        for figure, alt in (points_figure(graded), questions_figure(graded))
    ]  # fmt: skip
    template = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    return template.render(
        graded=graded, ignored=ignored, figures=figures, states=STATES, style=STYLE,
        questions=list(load_questions()), wrong=where_wrong(graded), alike=alike,
        marked=marked_questions(),
        flagged=sum(bool(each.flags) for each in graded),
        remarked=sum(bool(each.submission.remarks) for each in graded),
    )  # fmt: skip
