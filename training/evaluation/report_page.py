"""The page of the report, a template of Jinja2."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>Evaluation of {{ facts.model }}</title>
<style>
:root { color-scheme: light dark; --line: #ccc; --soft: #666; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #aaa; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:first-child { white-space: nowrap; } .facts td { white-space: normal; }
.scroll { overflow-x: auto; } .facts td { overflow-wrap: anywhere; } .soft, figcaption { color: var(--soft); }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 22rem; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>Evaluation of {{ facts.model }}</h1>
<table class="facts">
{% for name, value in facts.items() %}
<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
<tr><th>genuine pairs</th><td>{{ "{:,}".format(found.genuine_pairs) }}</td></tr>
<tr><th>impostor pairs</th><td>{{ "{:,}".format(found.impostor_pairs) }}</td></tr>
</table>
{% for note in found.notes %}
<p class="soft">{{ note }}</p>
{% endfor %}

<h2>Verification, 1:1</h2>
{% if found.verification %}
{% set result = found.verification.result %}
<p>Accuracy in {{ result.folds|length }} folds: <strong>{{ result.mean|share }}</strong> ±
{{ result.standard_error|share }} (standard error), on {{ "{:,}".format(found.verification.genuine_pairs) }} genuine and
{{ "{:,}".format(found.verification.impostor_pairs) }} impostor pairs. The threshold of each fold is the one that is
best on the others.</p>
<div class="scroll"><table>
<tr><th>fold</th>{% for _ in result.folds %}<td>{{ loop.index }}</td>{% endfor %}</tr>
<tr><th>accuracy</th>{% for value in result.folds %}<td>{{ value|share }}</td>{% endfor %}</tr>
<tr><th>threshold</th>{% for value in result.thresholds %}<td>{{ value|share }}</td>{% endfor %}</tr>
</table></div>
{% endif %}
<p>Equal error rate {{ found.equal_error_rate|share }} at threshold {{ found.equal_error_threshold|share }}; area
under the ROC {{ found.area_under_roc|share(6) }}.</p>
<div class="scroll"><table>
<tr><th>FMR</th><th>TAR</th><th>95 % interval</th><th>threshold</th><th></th></tr>
{% for point in found.rates %}
<tr><td>{{ "%.0e"|format(point.fmr) }}</td><td>{{ point.tar|share }}</td>
<td>{% if point.measurable %}{{ point.tar_low|share }} .. {{ point.tar_high|share }} ({{ point.interval }})
{% endif %}</td><td>{{ point.threshold|share }}</td><td class="soft">{{ point.note }}</td></tr>
{% endfor %}
</table></div>
<div class="figures">
<figure>{{ figures.histogram }}<figcaption>Similarities; dashed: threshold at FMR 1e-3.</figcaption></figure>
<figure>{{ figures.roc }}<figcaption>ROC. Shaded: rates that so many pairs cannot state.</figcaption></figure>
<figure>{{ figures.det }}<figcaption>DET.</figcaption></figure>
</div>
{% if found.identification %}

<h2>Identification, 1:N</h2>
<p>{{ "{:,}".format(found.identification.people) }} people enrolled with one photo each;
{{ "{:,}".format(found.identification.mated) }} probes of them, {{ "{:,}".format(found.identification.non_mated) }} of
others. Rank-1 rate <strong>{{ found.identification.cmc[0]|share }}</strong>.</p>
<div class="scroll"><table>
<tr><th>FPIR</th><th>FNIR</th><th>95 % interval (Wilson)</th><th>threshold</th><th></th></tr>
{% for point in found.identification.open_set %}
<tr><td>{{ "%.0e"|format(point.fpir) }}</td><td>{{ point.fnir|share }}</td>
<td>{% if point.fnir is not none %}{{ point.fnir_low|share }} .. {{ point.fnir_high|share }}{% endif %}</td>
<td>{{ point.threshold|share }}</td><td class="soft">{{ point.note }}</td></tr>
{% endfor %}
</table></div>
<div class="figures"><figure>{{ figures.cmc }}<figcaption>Cumulative match characteristic.</figcaption></figure></div>
{% endif %}
{% if found.groups %}

<h2>Groups</h2>
<p>All at the threshold {{ found.groups.threshold|share }}, at which {{ "%g"|format(found.groups.fmr) }} of all impostor
pairs match. Intervals are Wilson's, 95 %.</p>
<div class="scroll"><table>
<tr><th>attribute</th><th>value</th><th>genuine</th><th>impostor</th><th>FMR</th><th>interval</th>
<th>FNMR</th><th>interval</th><th>TAR</th></tr>
{% for row in found.groups.rows %}
<tr><td>{{ row.attribute }}</td><td>{{ row.value or "–" }}</td><td>{{ "{:,}".format(row.genuine_pairs) }}</td>
<td>{{ "{:,}".format(row.impostor_pairs) }}</td><td>{{ row.fmr|share(6) }}</td>
<td>{% if row.fmr is not none %}{{ row.fmr_low|share(6) }} .. {{ row.fmr_high|share(6) }}{% endif %}</td>
<td>{{ row.fnmr|share }}</td>
<td>{% if row.fnmr is not none %}{{ row.fnmr_low|share }} .. {{ row.fnmr_high|share }}{% endif %}</td>
<td>{{ row.tar|share }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
</body>
</html>"""
