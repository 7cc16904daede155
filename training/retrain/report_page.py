"""The page of a job's report, a template of Jinja2."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<title>Retraining of {{ name }}</title>
<style>
:root { color-scheme: light dark; --line: #ccc; --soft: #666; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #aaa; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: nowrap; } td.text { white-space: normal; overflow-wrap: anywhere; min-width: 11rem; }
td.number { text-align: right; }
.scroll { overflow-x: auto; } .soft, figcaption { color: var(--soft); }
.figures, .findings { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 22rem; }
.findings figure { flex: 0 0 10rem; font-size: .8rem; overflow-wrap: anywhere; }
.findings img { height: 72px; margin-right: 4px; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>Retraining of {{ name }}</h1>
{% if decision is none %}
<p><strong>Not finished</strong>: the stages below are done.</p>
{% elif decision.reasons %}
<p><strong>Refused</strong>; the champion serves on.</p>
<ul>{% for reason in decision.reasons %}<li>{{ reason }}</li>{% endfor %}</ul>
{% else %}
<p><strong>Passed</strong>{{ " and promoted" if promoted else "" }}.</p>
{% endif %}
{% if decision is not none %}
{% for note in decision.notes %}<p class="soft">{{ note }}</p>{% endfor %}
{% endif %}

<h2>Stages</h2>
<div class="scroll"><table>
<tr><th>stage</th><th>seconds</th><th>what came of it</th></tr>
{% for stage in stages %}
<tr><td>{{ stage.name }}</td><td class="number">{{ "{:,.1f}".format(stage.seconds) }}</td>
<td class="text">{{ stage.line }}</td></tr>
{% endfor %}
<tr><th>all</th><td class="number">{{ "{:,.1f}".format(seconds) }}</td><td></td></tr>
</table></div>
{% if comparison %}

<h2>Against {{ against }}</h2>
<p>On the same photos, TAR at FMR {{ "%g"|format(fmr) }}. Intervals
 of the difference, 95 %, are bootstrapped over people.</p>
<div class="scroll"><table>
<tr><th>who</th><th>people</th><th>what</th><th>candidate</th><th>{{ against }}</th><th>difference</th>
<th>interval</th></tr>
{% for each in comparison %}
{% for what, found in (("TAR", each.tar), ("accuracy", each.accuracy)) %}
{% if found %}
<tr><td>{{ each.name }}</td><td>{{ each.people }}</td><td>{{ what }}</td><td>{{ "%.4f"|format(found.candidate) }}</td>
<td>{{ "%.4f"|format(found.champion) }}</td><td>{{ "%+.4f"|format(found.candidate - found.champion) }}</td>
<td>{{ "%+.4f"|format(found.low) }} .. {{ "%+.4f"|format(found.high) }}</td></tr>
{% endif %}
{% endfor %}
{% endfor %}
</table></div>
{% endif %}
{% if shadow %}

<h2>In shadow</h2>
<p>Beside a server that answered by another model, on {{ "%g"|format(100 * shadow.share) }} % of its 1:1 comparisons
 of two photos, at the same false-match rate.</p>
<div class="scroll"><table>
<tr><th>compared</th><th>same decision</th><th>match by the candidate alone</th><th>no match by the candidate alone</th>
<th>mean shift of the cosine</th><th>not compared</th></tr>
<tr><td>{{ "{:,}".format(shadow.compared) }}</td><td>{{ "{:,}".format(shadow.same) }}</td>
<td>{{ "{:,}".format(shadow.flipped_to_match) }}</td><td>{{ "{:,}".format(shadow.flipped_to_non_match) }}</td>
<td>{{ "%+.4f"|format(shadow.mean_shift) }}</td>
<td>{{ "{:,}".format(shadow.failed + shadow.left_out) }}</td></tr>
</table></div>
{% endif %}
{% if figures %}

<h2>Curves</h2>
<div class="figures">
{% for title, key in (("Similarities, candidate", "candidate"), ("Similarities, " ~ (against or ""), "champion"),
("ROC, candidate", "roc"), ("DET, candidate", "det")) %}
{% if key in figures %}
<figure>{{ figures[key] }}<figcaption>{{ title }}</figcaption></figure>
{% endif %}
{% endfor %}
</div>
{% endif %}
{% if thresholds %}

<h2>Thresholds</h2>
<div class="scroll"><table>
<tr><th>FMR</th><th>threshold</th><th>95 % interval</th><th>TAR</th><th>95 % interval</th></tr>
{% for point in thresholds.points %}
<tr><td>{{ "%g"|format(point.fmr) }}</td><td>{{ "%.4f"|format(point.threshold) }}</td>
<td>{{ "%.4f"|format(point.threshold_low) }} .. {{ "%.4f"|format(point.threshold_high) }}</td>
<td>{{ "%.4f"|format(point.tar) }}</td>
<td>{{ "%.4f"|format(point.tar_low) }} .. {{ "%.4f"|format(point.tar_high) }}</td></tr>
{% endfor %}
{% for each in thresholds.galleries %}
<tr><td>FPIR {{ "%g"|format(thresholds.fpir) }} of {{ "{:,}".format(each.size) }}</td>
<td>{{ "%.4f"|format(each.threshold.value) }}</td>
<td class="soft">{{ "from the fitted tail" if each.threshold.extrapolated else "" }}</td><td></td><td></td></tr>
{% endfor %}
</table></div>
{% endif %}
{% if groups %}

<h2>Groups</h2>
<div class="scroll"><table>
<tr><th>attribute</th><th>value</th><th>genuine pairs</th><th>FMR</th><th>FNMR</th></tr>
{% for row in groups.rows %}
<tr><td>{{ row.attribute }}</td><td>{{ row.value or "–" }}</td><td>{{ "{:,}".format(row.genuine_pairs) }}</td>
<td>{{ "–" if row.fmr is none else "%.6f"|format(row.fmr) }}</td>
<td>{{ "–" if row.fnmr is none else "%.4f"|format(row.fnmr) }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% if findings %}

<h2>What was found in the data</h2>
{% for kind, group in findings.items() %}
<h3>{{ kind.replace("_", " ") }}: {{ "{:,}".format(group.count) }}{% if group.shown|length < group.count %}, \
of which the first {{ group.shown|length }}{% endif %}</h3>
<div class="findings">
{% for each in group.shown %}
<figure>{% for image in each.images %}{% if image %}<img src="{{ image }}" alt="">{% endif %}{% endfor %}
<figcaption>{{ each.photo or each.person }}: {{ "%.2f"|format(each.score) }}, {{ each.decision }}</figcaption></figure>
{% endfor %}
</div>
{% endfor %}
{% endif %}
</body>
</html>"""
