"""The metrics of ``aiosmtpd serve``, from the table of the package."""

from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from aiosmtpd.runner.exposition import METRICS


def lines_of_metrics() -> Iterator[str]:
    """Return a list of the metrics, in reStructuredText."""
    for name, metric in METRICS.items():
        labels = "".join(f", ``{label}``" for label in metric.labels)
        labels = f" by {labels[2:]}" if labels else ""
        yield from [f"``{name}``", f"   {metric.help} A {metric.kind}{labels}.", ""]


class MetricNames(SphinxDirective):
    """All metrics with their types, labels and sentences."""

    def run(self) -> list[nodes.Node]:
        """Parse the text in place of the directive."""
        node = nodes.Element()
        lines = StringList(list(lines_of_metrics()), "generated")
        self.state.nested_parse(lines, self.content_offset, node)
        return list(node.children)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("metric-names", MetricNames)
    return {"parallel_read_safe": True}
