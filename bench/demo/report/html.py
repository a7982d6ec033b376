"""Renders a report as one HTML page that needs nothing else: no network, no file beside it."""

from __future__ import annotations

import json
import re

from bench.core.report import Report
from bench.demo.report.plots import plots

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ report.title }}, {{ document.created_utc }}</title>
<style>
  :root { color-scheme: light dark; --line: #8884; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
  table { border-collapse: collapse; margin: .5rem 0 2rem; font-size: 13px; display: block; overflow-x: auto; }
  caption { text-align: left; font-weight: 600; padding: .3rem 0; white-space: nowrap; }
  th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
  th.left, td.left { text-align: left; }
  figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; background: white; }
  figcaption { font-weight: 600; }
  .error { background: #c0392b; color: white; padding: .6rem 1rem; }
  .warning { border-left: 4px solid #e8a33d; padding-left: 1rem; }
  pre { overflow-x: auto; font-size: 12px; } @media print { figure, table { break-inside: avoid; } }
</style>
</head>
<body>
<h1>{{ report.title }}</h1>
<p>{{ document.created_utc }}, commit {{ document.git.commit or "none" }}
{{- ", with changes not committed" if document.git.dirty }}.
<code>{{ document.command }}</code></p>
{% if document.errors %}<div class="error"><p><strong>There were errors. Read them before the figures.</strong></p>
<ul>{% for error in document.errors %}<li>{{ error }}</li>{% endfor %}</ul></div>{% endif %}
{% if document.warnings %}<div class="warning"><p>Warnings:</p>
<ul>{% for warning in document.warnings %}<li>{{ warning }}</li>{% endfor %}</ul></div>{% endif %}
<ul>{% for sentence in report.sentences %}<li>{{ sentence }}</li>{% endfor %}</ul>
<p>{{ report.explanation }}</p>
{% for plot in plots %}<figure role="group" aria-label="{{ plot.title }}: {{ plot.text }}">
<figcaption>{{ plot.title }}</figcaption><p>{{ plot.text }}</p>
{{ plot.svg | safe }}</figure>
{% endfor %}
<h2>Tables</h2>
{% for table in tables %}<table><caption>{{ table.title }}</caption>
<thead><tr>{% for column in table.columns %}
<th scope="col"{{ left if loop.index0 < table.left }}>{{ column }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}<tr>{% for cell in row %}
<td{{ left if loop.index0 < table.left }}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>
{% endfor %}
<h2>Where and how</h2>
<pre>{{ surroundings }}</pre>
</body>
</html>
"""


def render(report: Report) -> str:
    """The page as text."""
    # Not at the top: only the end of a benchmark needs it.
    from jinja2 import Environment
    from markupsafe import Markup

    document = report.document
    names = ("machine", "tools", "options", "configuration", "build", "verified", "shutdown")
    surroundings = {name: document[name] for name in names}
    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    return page.render(
        report=report,
        document=document,
        left=Markup(' class="left"'),
        plots=[plot._replace(svg=_inlined(plot.svg, number)) for number, plot in enumerate(plots(document))],
        tables=[*([report.criteria] if report.criteria is not None else []), *report.tables],
        surroundings=json.dumps(surroundings, indent=1, ensure_ascii=False),
    )


def _inlined(svg: str, number: int) -> str:
    """An SVG document as an element of a page. Its names get a prefix: each name may stand once in a page."""
    text = svg[svg.index("<svg") :]
    text = re.sub(r'\bid="([^"]+)"', rf'id="p{number}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#p{number}-\1)", text)
    return re.sub(r'href="#([^"]+)"', rf'href="#p{number}-\1"', text)
